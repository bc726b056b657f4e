//! Comparisons: an office day, and nobody beats who knows the future.

use plan::{
    judge::{Score, cost_at},
    load::Load,
    policy::{Fixed, Ours},
    study::{Comparison, Family},
    world::Settings,
};

use serde_json::json;

use crate::world::{rules, run, run_ours, secs, settings, steps, study};

/// 400 ms a call, four at a time: few requests make for much load.
fn slow() -> Settings {
    let mut settings = settings("400ms");
    settings.slo.target = secs(2);
    settings
}

fn compared(load: Load, seeds: u64) -> Comparison {
    study(slow(), load, seeds).run(&|_, _| {}).expect("a load and seeds")
}

#[test]
fn an_office_day_is_served_within_the_slo_for_a_fraction_of_its_peak() {
    let mut settings = slow();
    settings.cold_start = "10s".parse().unwrap();
    let load = Load::Office("peak=20,crowds=2,height=0.5".parse().unwrap());
    let run = run_ours(&settings, &load, 1);
    let score = Score::of(&run);
    assert!(score.met > 0.98, "{score:?}");
    let peak = f64::from(run.changes.iter().map(|change| change.to).max().unwrap()) * 24.0;
    assert!(score.replica_hours < 0.5 * peak, "{score:?}");
    assert!(score.opening.is_some() && score.worst.is_some());
    // Nobody is there at night.
    assert_eq!(run.changes.last().map(|change| change.to), Some(0));
}

#[test]
fn nobody_is_cheaper_than_who_knows_the_future() {
    let loads = ["0x3m,6x4m,0x8m,15x3m,2x5m,30x4m,0x2m", "3x5m,20x2m,3x5m,20x2m,3x3m"];
    for load in loads {
        let comparison = compared(steps(load), 2);
        let optimum: Vec<_> = comparison.of(Family::Optimum).map(|summary| summary.point()).collect();
        for summary in comparison.summaries.iter().filter(|s| s.contestant.family != Family::Optimum) {
            let Some(least) = cost_at(&optimum, summary.met.mean) else { continue };
            let cost = summary.replica_hours.mean;
            assert!(least <= cost * 1.01, "{load}: {} costs {cost:.3}, not {least:.3}", summary.name);
        }
        let best = optimum.iter().map(|point| point.met).fold(0.0, f64::max);
        assert!(best > 0.97, "{load}: {best}");
    }
}

#[test]
fn tidegate_alone_comes_to_what_it_comes_to_among_others() {
    let mut study = study(slow(), steps("5x2m,25x1m"), 2);
    study.against = vec![Family::Keda];
    let among = study.run(&|_, _| {}).expect("a load and seeds");
    let alone = study.alone(&|_, total| assert_eq!(total, 2)).expect("a load and seeds");
    assert_eq!(alone.point(), among.our_summary().expect("is there").point());
    study.seeds.clear();
    assert!(study.alone(&|_, _| {}).is_err());
}

#[test]
fn nobody_is_below_what_nobody_can_be_below() {
    let loads = ["3x5m,20x2m,3x5m,20x2m,3x3m", "10x10m", "2x4m,40x1m,2x6m,40x1m,2x3m"];
    for load in loads {
        for start in ["5s", "60s"] {
            let settings = Settings { cold_start: start.parse().unwrap(), ..slow() };
            let comparison = study(settings, steps(load), 1).run(&|_, _| {}).expect("a load and seeds");
            let bound = comparison.bound.as_ref().unwrap();
            for summary in &comparison.summaries {
                let (least, cost) = (bound.replica_hours(summary.met.mean), summary.replica_hours.mean);
                assert!(least <= cost, "{load}, {start}: {} costs {cost:.3}, not {least:.3}", summary.name);
            }
            let best =
                comparison.of(Family::Optimum).max_by(|a, b| a.met.mean.total_cmp(&b.met.mean)).unwrap();
            let least = bound.replica_hours(best.met.mean);
            assert!(least > 0.35 * best.replica_hours.mean, "{load}, {start}: says nothing: {least:.3}");
        }
    }
}

#[test]
fn every_family_is_there_with_its_tunings_and_a_cost_at_equal_slo() {
    let comparison = compared(steps("5x2m,25x2m,5x3m"), 2);
    let ours = comparison.our_summary().unwrap();
    assert!(ours.met.half_width.is_some());
    for family in Family::OTHERS {
        assert!(comparison.of(family).count() >= 8, "{family:?}");
        assert!(!comparison.frontier(family).is_empty());
    }
    assert_eq!(comparison.at_equal_slo.len(), Family::OTHERS.len());
    let fixed = comparison.at_equal_slo.iter().find(|equal| equal.family == Family::Static).unwrap();
    assert!(fixed.replica_hours.is_some_and(|hours| hours > 0.0));
}

#[test]
fn a_static_number_costs_its_time_and_nothing_else() {
    let settings = settings("40ms");
    let run = run(&settings, &steps("50x10m"), &mut Fixed(3), 1);
    assert_eq!(run.replica_time, secs(1800));
    assert!(run.changes.is_empty());
}

#[test]
fn a_study_is_the_same_on_one_thread_and_on_two() {
    let mut study = study(slow(), steps("5x2m,15x2m"), 2);
    study.against = vec![Family::Hpa];
    let names = |comparison: &Comparison| -> Vec<_> {
        comparison.summaries.iter().map(|s| (s.name.clone(), s.met, s.replica_hours)).collect()
    };
    let two = names(&study.run(&|_, _| {}).unwrap());
    study.threads = 1;
    assert_eq!(names(&study.run(&|_, _| {}).unwrap()), two);
}

#[test]
fn what_is_recorded_is_the_run_that_was_judged() {
    let study = study(slow(), steps("5x3m,25x3m"), 1);
    let timeline = study.record(study.ours(), 100).unwrap().unwrap();
    let run = run_ours(&study.settings, &study.load, 1);
    let arrivals: u64 = timeline.pieces.iter().map(|piece| u64::from(piece.arrivals)).sum();
    let misses: u64 = timeline.pieces.iter().map(|piece| u64::from(piece.misses)).sum();
    assert_eq!((arrivals, misses), (run.arrivals, run.arrivals - run.counted.met));
    assert_eq!(timeline.marks.len(), run.changes.len());
    assert!(timeline.marks.iter().all(|mark| !mark.words.is_empty()));
}

#[test]
fn a_scheduled_opening_finds_its_replicas_and_the_night_costs_nothing() {
    let mut settings = slow();
    settings.cold_start = "60s".parse().unwrap();
    let load = Load::Office("peak=10,crowds=0,days=2".parse().unwrap());
    let mut rules = rules(&settings);
    let morning = json!({
        "name": "morning", "timezone": "UTC", "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
        "from": 418, "to": 480, "bounds": {"between": {"floor": 1, "cap": null}}, "on_request": "wake", "prewarm": null,
    });
    rules.schedules = vec![serde_json::from_value(morning).expect("a schedule")];
    let plain = Score::of(&run_ours(&settings, &load, 1));
    let run = run(&settings, &load, &mut Ours::new(rules), 1);
    let score = Score::of(&run);
    let (opening, before) = (score.opening.unwrap(), plain.opening.unwrap());
    assert!(opening >= 0.995 && before < opening, "{opening} after {before}");
    assert!(score.replica_hours < plain.replica_hours * 1.01, "{score:?} and {plain:?}");
    // From the evening's zero to the pre-warm of the second morning there is not one change.
    let day = secs(24 * 3600);
    let evening = run.changes.iter().position(|change| change.to == 0 && change.at > day * 3 / 4).unwrap();
    let morning = &run.changes[evening + 1];
    let opens = day + secs(418 * 60);
    assert!(run.changes[evening].at < day * 6 / 7, "{:?}", run.changes[evening]);
    assert!((opens - secs(60 + 35)..opens - secs(60)).contains(&morning.at), "{morning:?}");
}
