//! File descriptors: as many as the process may have, and some of them out of reach of clients, so that model
//! servers are called and the admin port answers however many connections there are.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Never taken by clients, where the limit leaves as many.
const RESERVED: usize = 256;

/// How many of `wanted` client connections may be open at once. Raises the limit of the process if that is in
/// the way and allowed.
pub(super) fn places(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    // A call to a model server may take a descriptor as well.
    let needed = 2 * wanted + RESERVED;
    let open_max = raise(limit, needed as u64);
    let places = open_max.map_or(wanted, share).min(wanted);
    if places < wanted {
        tracing::warn!(
            places,
            wanted,
            ?open_max,
            "fewer connections than configured: too few open files are allowed"
        );
    }
    places
}

/// The limit in force after an attempt to have at least `needed`; `None` for none.
fn raise(limit: Rlimit, needed: u64) -> Option<usize> {
    let Rlimit { current, maximum } = limit;
    let current = current?;
    let aim = maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = aim > current && setrlimit(Resource::Nofile, Rlimit { current: Some(aim), maximum }).is_ok();
    Some(usize::try_from(if raised { aim } else { current }).unwrap_or(usize::MAX))
}

/// What clients may take of `open_max` descriptors.
fn share(open_max: usize) -> usize {
    open_max.saturating_sub(RESERVED).max(open_max / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_descriptors_to_others() {
        for (open_max, clients) in [(20_256, 20_000), (1024, 768), (256, 64), (64, 16), (0, 1)] {
            assert_eq!(share(open_max), clients, "{open_max}");
        }
    }

    #[test]
    fn no_limit_and_one_that_is_high_enough_stay() {
        assert_eq!(raise(Rlimit { current: None, maximum: None }, 1000), None);
        assert_eq!(raise(Rlimit { current: Some(2000), maximum: Some(4000) }, 1000), Some(2000));
    }
}
