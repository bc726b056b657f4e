//! `/api/…`: the state of the models as JSON, and the reasons for it in words.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use autoscaler::{
    explain,
    fleet::{Phase, Replica},
    log::Entry,
};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::{
    Admin,
    decisions::{decisions, observed, why},
    text,
};
use crate::{config, serve::View};

/// Percentiles are those of the last so many seconds.
const LATENCY_SECONDS: usize = 10;

pub(super) type Answer = Result<Value, (StatusCode, String)>;

/// Answers `GET /api/{path}?{query}`.
pub(super) fn answer(admin: &Admin, path: &str, query: &str) -> Response<Full<Bytes>> {
    let answer = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["models"] => Ok(models(admin)),
        ["models", model] => find(admin, model).map(|view| detail(&view)),
        ["models", model, "decisions"] => find(admin, model).and_then(|view| decisions(&view, query)),
        ["models", model, "why"] => find(admin, model).and_then(|view| why(&view, query)),
        ["config"] => Ok(configuration(admin)),
        ["learned"] => Ok(learned(admin)),
        _ => Err((StatusCode::NOT_FOUND, "no such resource".to_owned())),
    };
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err((status, error)) => (status, json!({ "error": error })),
    };
    text(status, "application/json", format!("{body:#}\n"))
}

fn find(admin: &Admin, model: &str) -> Result<Arc<View>, (StatusCode, String)> {
    let missing = || {
        let known: Vec<String> = admin.registry.views().iter().map(|v| v.config.name.to_string()).collect();
        (StatusCode::NOT_FOUND, format!("there is no model of this name; there is: {}", known.join(", ")))
    };
    admin.registry.view(model).ok_or_else(missing)
}

fn models(admin: &Admin) -> Value {
    let views = admin.registry.views();
    json!({ "version": env!("CARGO_PKG_VERSION"), "models": views.iter().map(|view| summary(view)).collect::<Vec<_>>() })
}

fn summary(view: &View) -> Value {
    let (latest, (p50, p99)) = {
        let history = view.history.lock().unwrap_or_else(PoisonError::into_inner);
        (history.latest().cloned(), history.latest_latency(LATENCY_SECONDS))
    };
    let entry = view.decision();
    let directive = view.directive();
    let replicas = view.replicas();
    let count = |phase: Phase| replicas.iter().filter(|replica| replica.phase == phase).count();
    let ready = count(Phase::Ready);
    let desired = entry
        .as_ref()
        .map(|entry| entry.told().to)
        .or_else(|| directive.as_ref().map(|directive| directive.desired));
    // Where the model is only observed nothing moves towards what it would have.
    let observing = entry.as_ref().and_then(|entry| entry.observed.as_ref());
    let meant = observing.map(|observed| observed.actual).or(desired);
    let why = entry.as_ref().map(|entry| explain::sentence(entry.told()));
    let traffic = traffic(view, entry.as_deref());
    json!({
        "name": view.config.name,
        "state": if view.is_scaled() {
            state(ready, count(Phase::Pending) + count(Phase::Starting), meant)
        } else {
            fixed_state(ready, &replicas)
        },
        "replicas": {
            "desired": desired,
            "ready": ready,
            "starting": count(Phase::Starting),
            "pending": count(Phase::Pending),
            "draining": count(Phase::Draining),
            "max": view.config.fleet.scaling().map(|scaling| scaling.max),
        },
        "queue": traffic.queue,
        "in_flight": traffic.in_flight,
        "arrivals_per_second": traffic.arrivals_per_second,
        "failures_per_second": latest.as_ref().map(|sample| sample.failures),
        "batch_rows": latest.and_then(|sample| sample.batch_rows),
        "p50_seconds": p50,
        "p99_seconds": p99,
        "slo": slo(view.config.slo),
        "why": why.or_else(|| directive.as_ref().map(|directive| directive.why.to_string())),
        "observed": entry.as_ref().and_then(|entry| entry.observed.as_deref()).map(|found| observed(found, view.clock.now())),
        "leader": directive.as_ref().map(|directive| &directive.leader),
    })
}

/// What comes and waits: in this process, or, where it serves no clients, as all gateways report it.
#[derive(Default)]
struct Traffic {
    queue: Value,
    in_flight: Value,
    arrivals_per_second: Value,
}

fn traffic(view: &View, entry: Option<&Entry>) -> Traffic {
    if let Some(stats) = view.stats() {
        let history = view.history.lock().unwrap_or_else(PoisonError::into_inner);
        return Traffic {
            queue: json!({
                "requests": stats.queued_requests,
                "rows": stats.queued_rows,
                "bytes": stats.queued_bytes,
                "oldest_seconds": stats.oldest.map(|oldest| oldest.as_secs_f64()),
            }),
            in_flight: stats.in_flight_requests.into(),
            arrivals_per_second: history.latest().map(|sample| sample.arrivals).into(),
        };
    }
    let Some(load) = entry.map(|entry| entry.decision.inputs.load) else { return Traffic::default() };
    Traffic {
        queue: json!({ "requests": load.queued, "oldest_seconds": load.oldest.map(|oldest| oldest.as_secs_f64()) }),
        in_flight: load.in_flight.into(),
        arrivals_per_second: load.rate.into(),
    }
}

/// Nobody starts what runs at fixed addresses: what was seen to be wrong is no start.
fn fixed_state(ready: usize, replicas: &[Replica]) -> &'static str {
    match ready {
        0 if replicas.iter().all(|replica| replica.trouble.is_some()) => "down",
        0 => "starting",
        _ => "ready",
    }
}

fn state(ready: usize, starting: usize, desired: Option<u32>) -> &'static str {
    match (ready, starting, desired.map(|desired| desired as usize)) {
        (0, 0, Some(0)) => "zero",
        (0, 0, None) => "down",
        (0, ..) => "starting",
        (_, 0, Some(desired)) if desired < ready => "scaling",
        (_, 0, _) => "ready",
        _ => "scaling",
    }
}

fn detail(view: &View) -> Value {
    let stats = view.stats();
    let mut detail = summary(view);
    let seen = |replica: &Replica| {
        stats.as_ref().and_then(|stats| stats.replicas.iter().find(|seen| seen.id == replica.id))
    };
    let replicas: Vec<Value> =
        view.replicas().iter().map(|replica| replica_value(replica, seen(replica))).collect();
    let history = view.history.lock().unwrap_or_else(PoisonError::into_inner);
    if let Value::Object(fields) = &mut detail {
        fields.insert("replica_list".to_owned(), replicas.into());
        fields.insert("history".to_owned(), json!(history.samples().collect::<Vec<_>>()));
        let turns = view.decision().and_then(|entry| explain::turns(entry.told()));
        fields.insert("change".to_owned(), json!(turns));
        fields.insert("latency_model".to_owned(), stats.as_ref().map(latency_model).into());
    }
    detail
}

fn latency_model(stats: &pipeline::Stats) -> Value {
    json!({
        "fixed_seconds": stats.latency_fixed.as_secs_f64(),
        "per_row_seconds": stats.latency_per_row.as_secs_f64(),
        "p95_over_mean": stats.latency_tail,
        "calls_learned_from": stats.latency_samples,
        "max_batch_rows": stats.max_batch_rows,
    })
}

fn replica_value(replica: &Replica, seen: Option<&pipeline::ReplicaStats>) -> Value {
    json!({
        "id": replica.id,
        "phase": format!("{:?}", replica.phase).to_lowercase(),
        "age_seconds": replica.created.elapsed().as_secs_f64(),
        "restarts": replica.restarts,
        "trouble": replica.trouble,
        "in_flight": seen.map(|seen| seen.in_flight),
        "slowness": seen.map(|seen| seen.slowness),
        "ejected": seen.map(|seen| seen.ejected),
        "completions": seen.map(|seen| seen.completions),
        "failures": seen.map(|seen| seen.failures),
    })
}

pub(super) fn bad_query(sentence: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, sentence.into())
}

/// A time since the Unix epoch; `None` beyond the year 9999.
pub(crate) fn timestamp(at: Duration) -> Option<Timestamp> {
    SignedDuration::try_from(at).ok().and_then(|at| Timestamp::from_duration(at).ok())
}

/// A time since the Unix epoch as people here read it.
pub(crate) fn wall_clock(at: Duration) -> String {
    timestamp(at).map_or_else(
        || format!("{at:?}"),
        |timestamp| timestamp.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string(),
    )
}

/// What the models scaled here were learned to be like: for `config check --state`.
fn learned(admin: &Admin) -> Value {
    let views = admin.registry.views();
    let digest =
        |view: &Arc<View>| Some((view.config.name.to_string(), json!(view.scaling()?.handle.digest())));
    json!({ "models": views.iter().filter_map(digest).collect::<serde_json::Map<_, _>>() })
}

/// What runs, without the values of environment variables: they may be secret.
fn configuration(admin: &Admin) -> Value {
    let views = admin.registry.views();
    let models: Vec<Value> = views.iter().map(|view| model_configuration(&view.config)).collect();
    json!({
        "listen": admin.config.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "admin": admin.config.admin.to_string(),
        "limits": { "memory": admin.config.limits.memory, "max_body": admin.config.limits.max_body },
        "models": models,
    })
}

fn model_configuration(model: &config::Model) -> Value {
    let fleet = match &model.fleet {
        config::Fleet::Process(process) => json!({ "process": {
            "program": process.command.first(),
            "arguments": process.command.len().saturating_sub(1),
            "env": process.env.keys().collect::<Vec<_>>(),
        }}),
        config::Fleet::Kubernetes(kubernetes) => json!({ "kubernetes": {
            "namespace": kubernetes.namespace,
            "target": kubernetes.target,
            "service": kubernetes.service,
        }}),
        config::Fleet::Static { addresses } => json!({ "static": { "addresses": addresses } }),
    };
    json!({
        "name": model.name,
        "fleet": fleet,
        "protocol": format!("{:?}", model.protocol),
        "slo": slo(model.slo),
        "deadline": {
            "default_seconds": model.deadline.default.as_secs_f64(),
            "max_seconds": model.deadline.max.as_secs_f64(),
            "first_token_seconds": model.deadline.tokens.map(|tokens| tokens.first.as_secs_f64()),
            "between_tokens_seconds": model.deadline.tokens.map(|tokens| tokens.between.as_secs_f64()),
        },
        "routing": model.routing.as_ref().map(|routing| json!({
            "prefix_affinity": routing.prefix_affinity,
            "load_factor": routing.load_factor,
            "session_header": routing.session_header,
        })),
        "batching": format!("{:?}", model.batching),
        "queue": { "requests": model.queue.requests, "bytes": model.queue.bytes },
        "scaling": model.fleet.scaling().map(|scaling| json!({ "min": scaling.min, "max": scaling.max })),
    })
}

/// Of whole answers as it always was; of streams the two objectives by name.
fn slo(slo: config::Slo) -> Value {
    let objective = |objective: config::Objective| json!({ "quantile": objective.quantile, "seconds": objective.latency.as_secs_f64() });
    match slo {
        config::Slo::Latency(whole) => objective(whole),
        config::Slo::Chat { ttft, tpot } => json!({ "ttft": objective(ttft), "tpot": objective(tpot) }),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn replica(trouble: Option<&str>) -> Replica {
        Replica {
            id: "a:1".into(),
            address: None,
            phase: Phase::Starting,
            created: Instant::now(),
            ready_since: None,
            restarts: 0,
            trouble: trouble.map(Into::into),
            hold: TaskTracker::new().token(),
        }
    }

    #[test]
    fn fixed_addresses_are_down_once_each_was_seen_to_be() {
        let (unknown, dead) = (replica(None), replica(Some("it cannot be reached")));
        assert_eq!(fixed_state(0, &[unknown, dead.clone()]), "starting");
        assert_eq!(fixed_state(0, &[dead.clone(), dead.clone()]), "down");
        assert_eq!(fixed_state(1, &[dead]), "ready");
    }
}
