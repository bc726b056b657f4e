//! A valid model back in the words of a file, as far as they matter to decisions: what a record keeps of it. The
//! commands of replicas, their environment and their addresses stay out.

use std::time::Duration;

use jiff::civil::Weekday;
use pipeline::{Batching, Concurrency};
use serde_json::{Map, Value, json};

use super::{Bounds, Fleet, Mode, Model, Objective, OnRequest, Port, Protocol, Scaling, Schedule, Slo};

/// What stands in the place of a program that is left out.
const PROGRAM: &str = "left-out";
/// Names of the days, from Monday.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// An entry of `models` that means the same to whoever scales.
pub(crate) fn words(model: &Model) -> Value {
    let mut deadline = json!({ "default": span(model.deadline.default), "max": span(model.deadline.max) });
    if let (Some(tokens), Some(deadline)) = (model.deadline.tokens, deadline.as_object_mut()) {
        deadline.insert("firstToken".to_owned(), span(tokens.first).into());
        deadline.insert("betweenTokens".to_owned(), span(tokens.between).into());
    }
    json!({
        "name": &*model.name,
        "fleet": fleet(&model.fleet),
        "protocol": protocol(model.protocol),
        "slo": slo(model.slo),
        "deadline": deadline,
        "batching": batching(model.batching),
        "queue": { "maxRequests": model.queue.requests, "maxBytes": format!("{}B", model.queue.bytes) },
        "concurrency": match model.concurrency {
            Concurrency::Auto => Value::from("auto"),
            Concurrency::Fixed(calls) => Value::from(calls),
        },
        "scaling": scaling(model.fleet.scaling(), model.cold_start_timeout),
    })
}

fn fleet(fleet: &Fleet) -> Value {
    match fleet {
        Fleet::Process(_) => json!({ "process": { "command": [PROGRAM, "{port}"] } }),
        Fleet::Kubernetes(kubernetes) => {
            let port = match &kubernetes.port {
                Port::Number(number) => Value::from(*number),
                Port::Name(name) => Value::from(name.as_str()),
            };
            let mut words = json!({
                "target": kubernetes.target,
                "service": kubernetes.service,
                "port": port,
            });
            if let (Some(namespace), Some(words)) = (&kubernetes.namespace, words.as_object_mut()) {
                words.insert("namespace".to_owned(), namespace.as_str().into());
            }
            json!({ "kubernetes": words })
        }
        Fleet::Static { .. } => json!({ "static": { "addresses": ["left-out:1"] } }),
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::V2Grpc => "v2-grpc",
        Protocol::V2Http => "v2-http",
        Protocol::V1 => "v1",
        Protocol::OpenAi => "openai",
    }
}

fn slo(slo: Slo) -> Value {
    let objective = |Objective { quantile, latency }: Objective| {
        let percentile = (quantile * 1e3).round() / 10.0;
        Value::Object(Map::from_iter([(format!("p{percentile}"), span(latency).into())]))
    };
    match slo {
        Slo::Latency(whole) => objective(whole),
        Slo::Chat { ttft, tpot } => json!({ "ttft": objective(ttft), "tpot": objective(tpot) }),
    }
}

fn batching(batching: Batching) -> Value {
    match batching {
        Batching::Auto => "auto".into(),
        Batching::Off => "off".into(),
        Batching::Merge { max_rows, max_hold } => json!({ "maxRows": max_rows, "maxHold": span(max_hold) }),
    }
}

fn scaling(scaling: Option<&Scaling>, cold_start_timeout: Duration) -> Value {
    let Some(scaling) = scaling else { return json!({ "coldStartTimeout": span(cold_start_timeout) }) };
    json!({
        "min": scaling.min,
        "max": scaling.max,
        "idleAfter": scaling.idle_after.map_or_else(|| "auto".to_owned(), span),
        "coldStartTimeout": span(cold_start_timeout),
        "mode": match scaling.mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        },
        "schedules": scaling.schedules.iter().map(schedule).collect::<Vec<_>>(),
    })
}

fn schedule(schedule: &Schedule) -> Value {
    let Schedule { name, timezone, days, from, to, bounds, on_request, prewarm } = schedule;
    let time = |minutes: u16| format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let day = |day: &Weekday| DAYS.get(usize::try_from(day.to_monday_zero_offset()).unwrap_or_default());
    let mut words = json!({
        "name": &**name,
        "timezone": timezone.iana_name(),
        "days": days.iter().filter_map(day).collect::<Vec<_>>(),
        "from": time(*from),
        "to": time(*to),
        "onRequest": match on_request {
            OnRequest::Wake => "wake",
            OnRequest::Reject => "reject",
        },
        "prewarm": prewarm.map_or_else(|| "auto".to_owned(), span),
    });
    let sides = match *bounds {
        Bounds::Exactly(replicas) => [("replicas", Some(replicas)), ("min", None)],
        Bounds::Between { floor, cap } => [("min", floor), ("max", cap)],
    };
    if let Some(words) = words.as_object_mut() {
        words.extend(sides.into_iter().filter_map(|(name, side)| Some((name.to_owned(), side?.into()))));
    }
    words
}

/// A time in the largest unit that leaves no remainder.
fn span(span: Duration) -> String {
    match span.subsec_nanos() {
        0 => format!("{}s", span.as_secs()),
        nanos if nanos.is_multiple_of(1_000_000) => format!("{}ms", span.as_millis()),
        nanos if nanos.is_multiple_of(1_000) => format!("{}us", span.as_micros()),
        _ => format!("{}ns", span.as_nanos()),
    }
}
