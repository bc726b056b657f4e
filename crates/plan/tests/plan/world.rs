//! Small models and loads.

use std::{sync::Arc, time::Duration};

use arrivals::{profile::Profile, spacing::Spacing};
use autoscaler::policy::{Assumed, Bounds, IdleAfter, Mode, Objective, Policy as Rules, Slo};
use plan::{
    load::Load,
    policy::{Ours, Policy},
    service::{PROMPT, TOKENS},
    study::{Family, Study},
    world::{Run, Settings, TokenSlo, World},
};

pub(crate) fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// 40 ms a call, four at a time, a start of 20 s.
pub(crate) fn settings(service: &str) -> Settings {
    Settings {
        service: service.parse().expect("a service"),
        variation: 0.3,
        prompt: PROMPT,
        answer: TOKENS,
        slots: 4,
        slo: Objective { target: Duration::from_millis(200), percentile: 0.99 },
        tokens: None,
        deadline: secs(30),
        cold_start: "20s".parse().expect("a start"),
        cold_start_timeout: secs(120),
        queue: 1024,
        max_hold: Duration::from_millis(2),
        bounds: Bounds { min: 0, max: 16 },
        initial: None,
        begins: secs(1_767_225_600),
    }
}

/// A first token takes 300 ms, each further one 20 ms and 0.5 ms for each stream: 80 streams have 60 ms each, which is
/// what is asked for.
pub(crate) fn chat(slots: u32, adaptive: bool) -> Settings {
    let tpot = Objective { target: Duration::from_millis(60), percentile: 0.95 };
    let mut settings = settings("300ms+20ms/token+0.5ms/stream");
    settings.tokens = Some(TokenSlo { tpot, first_token: secs(30), adaptive });
    settings.slo.target = secs(2);
    (settings.slots, settings.deadline) = (slots, secs(120));
    settings
}

pub(crate) fn rules(settings: &Settings) -> Rules {
    Rules {
        bounds: settings.bounds,
        slo: match settings.tokens {
            Some(tokens) => Slo::Chat { ttft: settings.slo, tpot: tokens.tpot },
            None => Slo::Latency(settings.slo),
        },
        idle_after: IdleAfter::Auto,
        mode: Mode::Enforce,
        assumed: Assumed { concurrency: settings.slots, cold_start: settings.cold_start.mean() },
        schedules: Vec::new(),
    }
}

pub(crate) fn steps(text: &str) -> Load {
    let profile = Profile::steps(&text.parse().expect("steps"), Spacing::Poisson).expect("rates");
    Load::Profile(Arc::new(profile))
}

pub(crate) fn run(settings: &Settings, load: &Load, policy: &mut dyn Policy, seed: u64) -> Run {
    let schedule = load.schedule(seed).expect("a load");
    World::new(settings, &schedule, seed).run(policy)
}

pub(crate) fn run_ours(settings: &Settings, load: &Load, seed: u64) -> Run {
    run(settings, load, &mut Ours::new(rules(settings)), seed)
}

pub(crate) fn study(settings: Settings, load: Load, seeds: u64) -> Study {
    Study {
        rules: rules(&settings),
        settings,
        load,
        seeds: (1..=seeds).collect(),
        against: Family::OTHERS.to_vec(),
        threads: 2,
    }
}
