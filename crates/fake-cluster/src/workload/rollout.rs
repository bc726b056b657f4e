//! How many pods each ReplicaSet of a Deployment should have: the arithmetic of rolling updates.
//!
//! Scaling during a rollout goes to the new set first; the real controller divides it in proportion.

use serde_json::Value;

/// One ReplicaSet, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: String,
    pub(crate) wanted: i64,
    pub(crate) available: i64,
    /// Pods that are not terminating.
    pub(crate) pods: i64,
    /// Terminating pods.
    pub(crate) ending: i64,
}

/// How a Deployment replaces pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Recreate,
    Rolling { surge: i64, unavailable: i64 },
}

impl Strategy {
    pub(crate) fn of(deployment: &Value) -> Self {
        let strategy = &deployment["spec"]["strategy"];
        if strategy["type"] == "Recreate" {
            return Self::Recreate;
        }
        let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let rolling = &strategy["rollingUpdate"];
        let surge = share(&rolling["maxSurge"], replicas, Rounding::Up);
        let unavailable = share(&rolling["maxUnavailable"], replicas, Rounding::Down);
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self::Rolling { surge, unavailable: unavailable.min(replicas) }
    }

    pub(crate) fn surge(self) -> i64 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { surge, .. } => surge,
        }
    }

    pub(crate) fn unavailable(self) -> i64 {
        match self {
            Self::Recreate => 0,
            Self::Rolling { unavailable, .. } => unavailable,
        }
    }
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
}

/// A number, or a percentage of `whole`.
fn share(value: &Value, whole: i64, rounding: Rounding) -> i64 {
    let Some(text) = value.as_str() else { return value.as_i64().unwrap_or(0) };
    let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(25);
    match rounding {
        Rounding::Up => (whole * percent + 99) / 100,
        Rounding::Down => whole * percent / 100,
    }
}

/// Sets the numbers wanted of the new set and of the old ones, oldest first.
pub(crate) fn plan(replicas: i64, strategy: Strategy, new: &mut Set, old: &mut [Set]) {
    match strategy {
        Strategy::Recreate => {
            let left: i64 = old.iter().map(|set| set.pods + set.ending).sum();
            for set in old.iter_mut() {
                set.wanted = 0;
            }
            if left == 0 {
                new.wanted = replicas;
            }
        }
        Strategy::Rolling { surge, unavailable } => {
            grow_new(replicas, surge, new, old);
            shrink_old(replicas - unavailable, new, old);
        }
    }
}

fn grow_new(replicas: i64, surge: i64, new: &mut Set, old: &[Set]) {
    if new.wanted >= replicas || old.iter().all(|set| set.wanted == 0) {
        new.wanted = replicas;
        return;
    }
    let all = new.wanted + old.iter().map(|set| set.wanted).sum::<i64>();
    let room = (replicas + surge - all).max(0);
    new.wanted += room.min(replicas - new.wanted);
}

fn shrink_old(available_min: i64, new: &Set, old: &mut [Set]) {
    let all = new.wanted + old.iter().map(|set| set.wanted).sum::<i64>();
    let mut allowed = (all - available_min - (new.wanted - new.available)).max(0);
    for set in old.iter_mut() {
        let broken = (set.wanted - set.available).clamp(0, allowed);
        set.wanted -= broken;
        allowed -= broken;
    }
    let available = new.available + old.iter().map(|set| set.available).sum::<i64>();
    let mut spare = (available - available_min).max(0);
    for set in old.iter_mut() {
        let gone = set.wanted.min(spare).min(allowed.max(0));
        set.wanted -= gone;
        spare -= gone;
        allowed -= gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(wanted: i64, available: i64) -> Set {
        Set { name: String::new(), wanted, available, pods: wanted, ending: 0 }
    }

    #[test]
    fn without_old_pods_the_new_set_has_them_all() {
        let (mut new, mut old) = (set(1, 1), [set(0, 0)]);
        plan(5, Strategy::Rolling { surge: 2, unavailable: 1 }, &mut new, &mut old);
        assert_eq!((new.wanted, old[0].wanted), (5, 0));
    }

    #[test]
    fn a_rolling_update_stays_within_surge_and_unavailable() {
        let strategy = Strategy::Rolling { surge: 1, unavailable: 0 };
        let (mut new, mut old) = (set(0, 0), [set(4, 4)]);
        plan(4, strategy, &mut new, &mut old);
        assert_eq!((new.wanted, old[0].wanted), (1, 4), "one more, none less");
        plan(4, strategy, &mut new, &mut old);
        assert_eq!((new.wanted, old[0].wanted), (1, 4), "until it is ready");
        new.available = 1;
        plan(4, strategy, &mut new, &mut old);
        assert_eq!((new.wanted, old[0].wanted), (1, 3));
        old[0].available = 3;
        plan(4, strategy, &mut new, &mut old);
        assert_eq!((new.wanted, old[0].wanted), (2, 3));
    }

    #[test]
    fn recreating_waits_until_the_last_old_pod_is_gone() {
        let (mut new, mut old) = (set(0, 0), [Set { ending: 1, pods: 0, ..set(2, 2) }]);
        plan(2, Strategy::Recreate, &mut new, &mut old);
        assert_eq!((new.wanted, old[0].wanted), (0, 0));
        old[0].ending = 0;
        plan(2, Strategy::Recreate, &mut new, &mut old);
        assert_eq!(new.wanted, 2);
    }
}
