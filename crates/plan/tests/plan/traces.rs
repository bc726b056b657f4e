//! Public traces, which are kept beside the project and not in it. Where they are absent nothing is tested, and that
//! is said.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use arrivals::trace::{Replay, Trace};
use plan::{judge::Score, load::Load};

use crate::world::{run_ours, secs, settings};

fn trace(name: &str) -> Option<Trace> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/traces").join(name);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces").join(name);
    let found = [path, beside].into_iter().find(|path| path.exists());
    let Some(path) = found else {
        // Not by a macro, whose output is shown for tests that fail only.
        writeln!(io::stderr(), "skipped: no {name} beside the project").expect("standard error is open");
        return None;
    };
    Some(Trace::read(&fs::read_to_string(path).expect("a readable file")).expect("a trace"))
}

#[test]
fn an_hour_of_chat_is_served_by_its_tokens() {
    let Some(trace) = trace("azure_llm_2023_conv.csv") else { return };
    let mut settings = settings("300ms+20ms/token+0.5ms/stream");
    (settings.slots, settings.slo.target, settings.deadline) = (16, secs(30), secs(120));
    let load = Load::Trace(trace, Replay { jitter: 1.0, ..Replay::AS_IT_IS });
    let run = run_ours(&settings, &load, 1);
    assert_eq!(run.arrivals, 19_366);
    let score = Score::of(&run);
    assert!(score.met > 0.95, "{score:?}");
    assert!((1.5..6.0).contains(&score.replica_hours), "{score:?}");
}

#[test]
fn bins_are_drawn_and_served() {
    let Some(trace) = trace("servegen_m_small_client_18.csv") else { return };
    let part = Replay { span: 7200.0, ..Replay::AS_IT_IS };
    let mut settings = settings("200ms");
    settings.slo.target = secs(1);
    let run = run_ours(&settings, &Load::Trace(trace, part), 1);
    assert!(run.arrivals > 100_000, "{}", run.arrivals);
    assert!(Score::of(&run).met > 0.97, "{:?}", run.counted);
}
