//! SLOs of tokens: too few replicas let the first token wait, too many streams at a time slow the others down.

use std::time::Duration;

use arrivals::{Listed, Schedule};
use autoscaler::snapshot::ChatModel;
use plan::{
    judge::Score,
    policy::{Fixed, Hpa, Keda, Kpa, Ours, Policy, Seen},
    study::Family,
    world::{Counted, Kept, World},
};

use crate::world::{chat, rules, run, run_ours, secs, steps, study};

/// Wants `replicas`, and keeps what it was shown.
#[derive(Debug, Default)]
struct Watch {
    replicas: u32,
    model: Option<ChatModel>,
    in_flight: u64,
    concurrency: u32,
}

impl Policy for Watch {
    fn decide(&mut self, seen: &Seen<'_>, _: Duration) -> Option<u32> {
        let gateway = seen.snapshot.gateways.first();
        let report =
            gateway.and_then(|gateway| gateway.report.as_ref()).expect("one gateway, which is heard");
        self.model = report.chat;
        self.in_flight = self.in_flight.max(report.gauges.in_flight_requests);
        self.concurrency = self.concurrency.max(report.latency.concurrency);
        Some(self.replicas)
    }

    fn initial(&self, _: u32) -> u32 {
        self.replicas
    }
}

#[test]
fn too_few_replicas_miss_the_first_token_and_enough_keep_it() {
    // 16 streams of 200 tokens at 28 ms last 5.9 s: a replica takes 2.7/s of the 10/s.
    let settings = chat(16, false);
    let score = |replicas| Score::of(&run(&settings, &steps("10x10m"), &mut Fixed(replicas), 1));
    let (few, enough) = (score(2), score(6));
    assert!(few.ttft.unwrap() < 0.6 && few.shed > 0.3, "{few:?}");
    assert!(enough.ttft.unwrap() > 0.999 && enough.tpot.unwrap() > 0.999 && enough.met > 0.999, "{enough:?}");
    assert!((few.tpot.unwrap() + few.shed - 1.0).abs() < 1e-9, "who was answered had its pace: {few:?}");
}

#[test]
fn a_concurrency_that_is_too_high_misses_the_pace_and_not_the_first_token() {
    // 7/s come to 100 streams at a time, which have 70 ms each. 60 have 50 ms, and the replica takes 5.8/s.
    let score = |slots| Score::of(&run(&chat(slots, false), &steps("7x20m"), &mut Fixed(1), 1));
    let (many, few) = (score(120), score(60));
    assert!(many.ttft.unwrap() > 0.95 && many.tpot.unwrap() < 0.5 && many.met < 0.5, "{many:?}");
    assert!(
        few.tpot.unwrap() > 0.99 - few.shed && few.shed > 0.1 && few.ttft.unwrap() < many.ttft.unwrap(),
        "{few:?}"
    );
}

#[test]
fn a_gateway_that_finds_out_how_many_streams_keep_the_pace_keeps_it_under_overload() {
    // 80 streams of 200 tokens at 60 ms last 12.3 s: 6.5/s of the 12/s.
    let mut watch = Watch { replicas: 1, ..Watch::default() };
    let run = run(&chat(80, true), &steps("12x20m"), &mut watch, 1);
    let score = Score::of(&run);
    let answered = score.met + score.late;
    assert!(score.tpot.unwrap() > 0.9 * answered, "{score:?}");
    assert!(answered > 0.4, "{score:?}");
    assert!((60..=100).contains(&watch.in_flight), "{watch:?}");
    assert!((60..=100).contains(&watch.concurrency), "{watch:?}");
}

#[test]
fn who_decides_is_told_what_streams_are_like() {
    let mut watch = Watch { replicas: 3, ..Watch::default() };
    run(&chat(16, false), &steps("6x10m"), &mut watch, 1);
    let model = watch.model.expect("streams ended");
    let near = |value: Duration, ms: f64, within: f64| (value.as_secs_f64() * 1e3 - ms).abs() < within;
    assert!(near(model.ttft, 300.0, 30.0) && near(model.tpot_fixed, 20.0, 1.0), "{model:?}");
    assert!(near(model.tpot_per_stream, 0.5, 0.1), "{model:?}");
    assert!((180_000..220_000).contains(&model.output_tokens_milli), "{model:?}");
    assert!(model.samples > 3000 && (1000..1100).contains(&model.tpot_tail_permille), "{model:?}");
    assert_eq!(watch.concurrency, 16);
    assert!((20..=48).contains(&watch.in_flight), "{watch:?}");
    // Whole answers are judged as they were, and nothing of streams is told.
    let mut settings = chat(16, false);
    settings.tokens = None;
    let mut watch = Watch { replicas: 3, ..Watch::default() };
    let whole = run(&settings, &steps("6x1m"), &mut watch, 1);
    assert_eq!((watch.model, whole.kept), (None, None));
}

#[test]
fn tidegate_keeps_an_slo_of_tokens_through_a_step_that_it_does_not_know() {
    let mut settings = chat(16, false);
    settings.bounds.min = 1;
    let run = run_ours(&settings, &steps("2x10m,12x20m,2x10m"), 1);
    let score = Score::of(&run);
    assert!(score.met > 0.95 && score.tpot.unwrap() > 0.95, "{score:?}");
    // 12/s are 72 streams: five replicas, and some room.
    assert!((5.0..=12.0).contains(&score.most), "{score:?}");
}

#[test]
fn a_request_that_waits_for_a_start_misses_the_first_token_and_is_answered() {
    let mut settings = chat(16, false);
    settings.initial = Some(0);
    let run = run_ours(&settings, &steps("1x20s,0x5m"), 1);
    // A start takes 20 s.
    assert!(run.counted.late > 10 && run.counted.shed == 0, "{:?}", run.counted);
    let kept = run.kept.unwrap();
    assert_eq!(kept.tpot, run.arrivals);
    assert_eq!(run.arrivals - kept.ttft, run.counted.late);
}

#[test]
fn a_first_token_past_its_deadline_is_a_failure() {
    let mut settings = chat(16, false);
    settings.tokens.as_mut().unwrap().first_token = secs(10);
    settings.initial = Some(0);
    settings.cold_start = "15s".parse().unwrap();
    let run = run_ours(&settings, &steps("1x8s,0x5m"), 1);
    assert!(run.arrivals > 3);
    assert!(run.counted.timed_out + run.counted.shed > run.arrivals / 2, "{:?}", run.counted);
}

#[test]
fn every_stream_ends_exactly_once_whoever_decides() {
    let load = steps("0x1m,5x2m,30x1m,1x1m,0x5m,10x20s");
    for settings in [chat(16, false), chat(80, true)] {
        let policies: [Box<dyn Policy>; 5] = [
            Box::new(Fixed(2)),
            Box::new(Hpa::new(12.0, 0)),
            Box::new(Keda::new(12.0, 0)),
            Box::new(Kpa::new(12.0, plan::policy::Delay::None, 0)),
            Box::new(Ours::new(rules(&settings))),
        ];
        for mut policy in policies {
            let run = run(&settings, &load, &mut *policy, 3);
            let Counted { met, late, .. } = run.counted;
            let kept = run.kept.unwrap();
            assert_eq!(run.counted.all(), run.arrivals, "{policy:?}");
            assert!(run.arrivals > 2_500 && met > 100, "{:?} {policy:?}", run.counted);
            assert!(kept.ttft + kept.tpot <= 2 * met + late && kept.ttft.min(kept.tpot) >= met, "{kept:?}");
        }
    }
}

#[test]
fn long_prompts_are_late_by_themselves() {
    let mut settings = chat(16, false);
    settings.service = "100ms+1ms/prompt+20ms/token".parse().unwrap();
    // Each fourth prompt takes 3.1 s, the others 0.6 s.
    let request = |n: u32| Listed {
        at: f64::from(n),
        prompt: if n.is_multiple_of(4) { 3000 } else { 500 },
        output: 50,
    };
    let schedule = Schedule::Listed((0..400).map(request).collect());
    let run = World::new(&settings, &schedule, 1).run(&mut Fixed(2));
    assert_eq!((run.kept, run.counted.late), (Some(Kept { ttft: 300, tpot: 400 }), 100));
}

#[test]
fn where_no_trace_tells_answers_are_as_long_as_is_said() {
    let mut settings = chat(16, false);
    settings.answer = 50;
    let mut watch = Watch { replicas: 3, ..Watch::default() };
    run(&settings, &steps("6x5m"), &mut watch, 1);
    let tokens = watch.model.expect("streams ended").output_tokens_milli;
    assert!((45_000..55_000).contains(&tokens), "{tokens}");
}

#[test]
fn every_family_is_compared_on_streams() {
    let mut settings = chat(16, false);
    settings.bounds.max = 8;
    let comparison = study(settings, steps("2x5m,10x5m,2x5m"), 2).run(&|_, _| {}).unwrap();
    for family in Family::OTHERS {
        assert!(comparison.of(family).count() >= 8, "{family:?}");
    }
    let ours = comparison.our_summary().unwrap();
    let (ttft, tpot) = (ours.ttft_met.unwrap().mean, ours.tpot_met.unwrap().mean);
    assert!(ours.met.mean > 0.8 && ours.met.mean <= ttft.min(tpot), "{ours:?}");
    let best = comparison.of(Family::Static).map(|summary| summary.met.mean).fold(0.0, f64::max);
    assert!(best > 0.999, "{best}");
}
