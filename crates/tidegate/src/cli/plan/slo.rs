//! What is asked of a model's answers, and what a replica is said to need for them.

use std::time::Duration;

use anyhow::{bail, ensure};
use autoscaler::policy::{Objective, Policy as Rules, Slo};
use pipeline::Concurrency;
use plan::{
    service::Service,
    world::{Settings, TokenSlo},
};
use serde_json::{Value, json};

use super::ReplicaArgs;
use crate::config::Model;

/// Part of the SLO that a call, or a first token, is taken to need where nothing is said.
const SHARE: f64 = 0.2;
/// Part of the objective for further tokens that one takes to a stream that is alone, where nothing is said. With as many
/// streams as the model's concurrency it takes all of it.
const ALONE: f64 = 0.5;

/// The SLO, and replicas that are to keep it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Of whole answers, or of the first token.
    pub(super) slo: Objective,
    pub(super) tokens: Option<TokenSlo>,
    pub(super) service: Service,
    pub(super) slots: u32,
}

pub(super) fn asked(model: &Model, rules: &Rules, args: &ReplicaArgs) -> anyhow::Result<Asked> {
    ensure!(args.slots != Some(0), "--slots: a replica without a slot serves nobody");
    let concurrency = args.slots.unwrap_or(rules.assumed.concurrency);
    let (slo, tpot) = match rules.slo {
        Slo::Latency(slo) => {
            let service = args.service.unwrap_or(Service::Single { time: slo.target.mul_f64(SHARE) });
            return Ok(Asked { slo, tokens: None, service, slots: concurrency });
        }
        Slo::Chat { ttft, tpot } => (ttft, tpot),
    };
    let service = args.service.unwrap_or(Service::Chat {
        first: slo.target.mul_f64(SHARE),
        prompt: Duration::ZERO,
        token: tpot.target.mul_f64(ALONE),
        per_stream: tpot.target.mul_f64((1.0 - ALONE) / f64::from(concurrency.max(1))),
    });
    if !matches!(service, Service::Chat { .. }) {
        bail!(
            "--service: the SLO of model {} is one of tokens (ttft, tpot), so say what these take, like \
             300ms+20ms/token+0.5ms/stream",
            model.name
        );
    }
    let adaptive = args.slots.is_none() && model.concurrency == Concurrency::Auto;
    let first_token = model.deadline.tokens.map_or(model.deadline.default, |tokens| tokens.first);
    let slots = if adaptive { service.streams_within(tpot.target) } else { concurrency };
    Ok(Asked { slo, tokens: Some(TokenSlo { tpot, first_token, adaptive }), service, slots })
}

/// The SLO in words.
pub(super) fn words(settings: &Settings) -> String {
    let within = |objective: &Objective| {
        let target = humantime::format_duration(objective.target);
        format!("{} % within {target}", objective.percentile * 100.0)
    };
    match &settings.tokens {
        None => within(&settings.slo),
        Some(tokens) => format!("TTFT {}, TPOT {}", within(&settings.slo), within(&tokens.tpot)),
    }
}

pub(super) fn json(settings: &Settings) -> Value {
    let objective = |objective: &Objective| json!({ "seconds": objective.target.as_secs_f64(), "percentile": objective.percentile });
    match &settings.tokens {
        None => objective(&settings.slo),
        Some(tokens) => json!({ "ttft": objective(&settings.slo), "tpot": objective(&tokens.tpot) }),
    }
}

/// How many streams a replica has at a time, in words.
pub(super) fn streams(settings: &Settings) -> String {
    match settings.tokens.is_some_and(|tokens| tokens.adaptive) {
        true => format!("as many streams as keep the TPOT ({})", settings.slots),
        false => format!("{} streams", settings.slots),
    }
}

/// A duration as short as it is read, down to microseconds.
pub(super) fn duration(duration: Duration) -> String {
    humantime::format_duration(Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
        .to_string()
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;
    use crate::{
        config::{Source, parse},
        serve::policy::policy,
    };

    fn asked_of(concurrency: &str, service: Option<&str>, slots: Option<u32>) -> anyhow::Result<Asked> {
        let text = format!(
            "models:\n  - name: m\n    fleet: {{process: {{command: [m, \"{{port}}\"]}}}}\n    protocol: openai\n    \
             concurrency: {concurrency}\n    slo: {{ttft: {{p99: 2s}}, tpot: {{p95: 60ms}}}}\n    scaling: {{max: 4}}\n"
        );
        let loaded = parse(Source { name: "test".into(), text }).unwrap();
        let model = &loaded.config.models[0];
        let service = service.into_iter().flat_map(|service| ["--service".to_owned(), service.to_owned()]);
        let slots = slots.into_iter().flat_map(|slots| ["--slots".to_owned(), slots.to_string()]);
        let command = ReplicaArgs::augment_args(Command::new("plan"));
        let matches = command.get_matches_from(["plan".to_owned()].into_iter().chain(service).chain(slots));
        asked(model, &policy(model).unwrap(), &ReplicaArgs::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn replicas_have_as_many_streams_as_are_configured_or_keep_the_pace() {
        const SERVICE: Option<&str> = Some("300ms+20ms/token+0.5ms/stream");
        let asked = |concurrency, slots| {
            let asked = asked_of(concurrency, SERVICE, slots).unwrap();
            (asked.slots, asked.tokens.unwrap().adaptive)
        };
        assert_eq!(asked("auto", None), (80, true));
        assert_eq!(asked("24", None), (24, false));
        assert_eq!(asked("auto", Some(200)), (200, false));
        let tokens = asked_of("auto", SERVICE, None).unwrap().tokens.unwrap();
        assert_eq!((tokens.first_token.as_secs(), tokens.tpot.target.as_millis()), (60, 60));
    }

    #[test]
    fn what_is_not_said_of_tokens_follows_from_the_slo_and_what_is_said_must_be_of_tokens() {
        let asked = asked_of("auto", None, None).unwrap();
        assert_eq!(asked.slots, 8);
        let Service::Chat { first, token, per_stream, .. } = asked.service else {
            panic!("{:?}", asked.service)
        };
        assert_eq!((first.as_millis(), token.as_millis(), per_stream.as_micros()), (400, 30, 3750));
        for service in ["250ms", "8ms+1ms/row"] {
            let error = asked_of("auto", Some(service), None).unwrap_err();
            assert!(error.to_string().contains("/token"), "{error}");
        }
        assert!(asked_of("auto", None, Some(0)).is_err());
    }
}
