//! Which replicas leave when there are too many.

use autoscaler::fleet::{Phase, ReplicaId};

/// The `count` replicas that leave first, out of `staying` in the order they were asked for: those that are
/// nothing yet, then those not ready, then the `victims` in their order, then the youngest.
pub(super) fn choose(staying: &[(ReplicaId, Phase)], victims: &[ReplicaId], count: usize) -> Vec<ReplicaId> {
    let mut youngest_first: Vec<_> = staying.iter().rev().collect();
    youngest_first.sort_by_key(|(id, phase)| match phase {
        Phase::Pending => (0, 0),
        Phase::Starting => (1, 0),
        Phase::Ready | Phase::Draining => match victims.iter().position(|victim| victim == id) {
            Some(place) => (2, place),
            None => (3, 0),
        },
    });
    youngest_first.into_iter().take(count).map(|(id, _)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use Phase::{Pending, Ready, Starting};

    use super::*;

    fn leaving(phases: &[Phase], victims: &[&str], count: usize) -> String {
        let names = ["a", "b", "c", "d", "e", "f"];
        let staying: Vec<_> =
            names.iter().zip(phases).map(|(name, phase)| (ReplicaId::from(*name), *phase)).collect();
        let victims: Vec<_> = victims.iter().map(|name| ReplicaId::from(*name)).collect();
        choose(&staying, &victims, count).concat()
    }

    #[test]
    fn pending_go_before_unready_before_victims_before_the_youngest() {
        let phases = [Ready, Pending, Starting, Ready, Ready, Ready];
        assert_eq!(leaving(&phases, &["d", "a"], 6), "bcdafe");
        assert_eq!(leaving(&phases, &["d", "a"], 3), "bcd");
    }

    #[test]
    fn among_equals_the_youngest_goes_first() {
        assert_eq!(leaving(&[Pending, Pending, Starting, Starting], &[], 4), "badc");
    }

    #[test]
    fn unknown_victims_count_for_nothing() {
        assert_eq!(leaving(&[Ready, Ready, Ready], &["x", "b"], 2), "bc");
    }
}
