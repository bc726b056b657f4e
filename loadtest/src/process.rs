//! What other processes used, from `/proc`: CPU seconds and peak memory of a process and its descendants.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, ensure};
use serde::Serialize;

/// Ticks of `/proc/PID/stat` per second, fixed in the kernel's interface to programs on all current processors.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processes followed from one root; more are not a server.
const DESCENDANTS_MAX: usize = 1_000;

/// What one process and its descendants used during a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Usage {
    pub(crate) pid: u32,
    pub(crate) cpu_seconds: f64,
    /// Largest resident memory of each process since it started, summed.
    pub(crate) peak_rss_bytes: u64,
}

/// CPU clocks of some process trees at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Clocks {
    /// By root, then by process: a process that ends in between keeps what it had used at the start, so that the
    /// difference never goes below zero.
    trees: BTreeMap<u32, BTreeMap<u32, f64>>,
}

impl Clocks {
    /// Reads the clocks of `roots` and all their descendants.
    pub(crate) fn read(roots: &[u32]) -> anyhow::Result<Self> {
        let trees = roots.iter().map(|root| Ok((*root, tree(*root)?))).collect::<anyhow::Result<_>>()?;
        Ok(Self { trees })
    }

    /// What was used since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Vec<Usage> {
        let usage = |(pid, now): (&u32, &BTreeMap<u32, f64>)| {
            let before = earlier.trees.get(pid);
            let used =
                |(pid, clock): (&u32, &f64)| clock - before.and_then(|b| b.get(pid)).copied().unwrap_or(0.0);
            Usage {
                pid: *pid,
                cpu_seconds: now.iter().map(used).sum(),
                peak_rss_bytes: now.keys().filter_map(|pid| peak_rss(*pid)).sum(),
            }
        };
        self.trees.iter().map(usage).collect()
    }
}

fn tree(root: u32) -> anyhow::Result<BTreeMap<u32, f64>> {
    let mut clocks = BTreeMap::from([(root, cpu_seconds(root).with_context(|| format!("process {root}"))?)]);
    let mut unvisited = children(root);
    while let Some(pid) = unvisited.pop_first() {
        ensure!(clocks.len() < DESCENDANTS_MAX, "process {root} has more than {DESCENDANTS_MAX} descendants");
        // A descendant may end between listing and reading.
        if let Ok(clock) = cpu_seconds(pid) {
            clocks.insert(pid, clock);
            unvisited.extend(children(pid));
        }
    }
    Ok(clocks)
}

fn children(pid: u32) -> BTreeSet<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeSet::new() };
    let lists = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// User and system time of all threads, those that have ended included.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&stat).context("/proc/PID/stat is not as expected")
}

fn parse_stat(stat: &str) -> Option<f64> {
    // The name is in parentheses and may hold spaces and parentheses itself; the numbers come after the last one.
    let (_, numbers) = stat.rsplit_once(") ")?;
    let mut fields = numbers.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 9 9 20 0 3 0 100 1000 100";
        assert_eq!(parse_stat(stat), Some(3.0));
        assert_eq!(parse_stat("7 (cut"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_charged_for_what_it_burns() {
        let pid = std::process::id();
        let before = Clocks::read(&[pid]).unwrap();
        let mut sum = 0u64;
        while Clocks::read(&[pid]).unwrap().since(&before)[0].cpu_seconds < 0.05 {
            sum = (0..1_000_000u64).fold(sum, |sum, n| std::hint::black_box(sum ^ n));
        }
        let usage = &Clocks::read(&[pid]).unwrap().since(&before)[0];
        assert!(usage.cpu_seconds >= 0.05);
        assert!(usage.peak_rss_bytes > 1 << 20);
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(Clocks::read(&[u32::MAX]).is_err());
    }
}
