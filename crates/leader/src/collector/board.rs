//! What stands for every model, in the order in which it changed. Each call follows at its own pace and is sent the
//! newest of what it has not seen: a slow gateway costs no memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;
use proto::signals::{Directive, Directives};
use tokio::{sync::watch, time::Instant};

use super::{Collector, Model};
use crate::wire;

/// A message is closed once it has grown to this.
const MESSAGE_BYTES: usize = 256 << 10;

/// The order of changes.
#[derive(Debug, Default)]
pub(super) struct Board {
    version: u64,
    changes: BTreeMap<u64, Arc<str>>,
    versions: BTreeMap<Arc<str>, u64>,
    removals: u64,
}

impl Board {
    /// Notes that what stands of `model` is new.
    pub(super) fn changed(&mut self, model: &Arc<str>) -> u64 {
        self.version += 1;
        if let Some(before) = self.versions.insert(Arc::clone(model), self.version) {
            self.changes.remove(&before);
        }
        self.changes.insert(self.version, Arc::clone(model));
        self.version
    }

    /// Notes that nothing stands of `model` any more.
    pub(super) fn removed(&mut self, model: &str) -> u64 {
        if let Some(before) = self.versions.remove(model) {
            self.changes.remove(&before);
            self.removals += 1;
        }
        self.version += 1;
        self.version
    }
}

/// How far one call has come.
#[derive(Debug)]
pub(crate) struct Follower {
    collector: Collector,
    urgent: watch::Receiver<u64>,
    seen: u64,
    removals: u64,
    told: BTreeSet<Arc<str>>,
}

impl Follower {
    pub(super) fn new(collector: Collector, urgent: watch::Receiver<u64>) -> Self {
        Self { collector, urgent, seen: 0, removals: 0, told: BTreeSet::new() }
    }

    /// Resolves when there is something to be told that should not wait. May be dropped at any time.
    pub(crate) async fn news(&mut self) {
        if self.urgent.changed().await.is_err() {
            // The collector that holds the sender is held by this follower.
            std::future::pending::<()>().await;
        }
    }

    /// What has changed since this was last asked, and whether there is more than one message holds.
    pub(crate) fn next(&mut self) -> (Directives, bool) {
        let collector = self.collector.clone();
        let state = collector.lock();
        let (now, mut bytes) = (Instant::now(), 0);
        let mut message = Directives::default();
        for (version, name) in state.board.changes.range(self.seen + 1..) {
            if bytes >= MESSAGE_BYTES {
                return (message, true);
            }
            self.seen = *version;
            let Some(directive) = state.models.get(name).and_then(|model| model.directive(name, now)) else {
                continue;
            };
            bytes += directive.encoded_len();
            message.models.push(directive);
            self.told.insert(Arc::clone(name));
        }
        if self.removals != state.board.removals {
            self.removals = state.board.removals;
            self.told.retain(|name| {
                let stands = state.board.versions.contains_key(name);
                if !stands {
                    message.gone.push(name.to_string());
                }
                stands
            });
        }
        (message, false)
    }
}

impl Model {
    fn directive(&self, name: &str, now: Instant) -> Option<Directive> {
        let told = self.told.as_ref()?;
        Some(Directive {
            model: name.to_owned(),
            desired: told.desired,
            outlook: Some(wire::outlook_message(&told.outlook, now)),
            withdrawal: wire::withdrawal_message(self.withdrawal.number(), self.withdrawal.replicas()),
            why: wire::words(&told.why),
        })
    }
}

#[cfg(test)]
mod tests {
    use autoscaler::reconcile::{Outlook, Source as _};

    use super::*;
    use crate::collector::{Listed, ModelSource};

    fn collector() -> Collector {
        Collector::new(watch::channel(Listed::default()).1)
    }

    fn tell(source: &ModelSource, desired: u32, why: &str) {
        source.decide(desired, Outlook::Ready, why);
    }

    fn models(message: &Directives) -> Vec<(&str, u32)> {
        message.models.iter().map(|directive| (&*directive.model, directive.desired)).collect()
    }

    #[test]
    fn a_follower_is_told_all_first_and_then_only_the_newest_of_what_changed() {
        let collector = collector();
        let (a, b) = (collector.source("a".into()), collector.source("b".into()));
        tell(&a, 1, "");
        tell(&b, 2, "");
        let mut follower = collector.follow();
        assert_eq!(models(&follower.next().0), [("a", 1), ("b", 2)]);
        for desired in 3..1000 {
            tell(&a, desired, "");
        }
        assert_eq!(models(&follower.next().0), [("a", 999)]);
        assert_eq!(models(&follower.next().0), []);
    }

    #[test]
    fn what_was_told_and_is_gone_is_said_once() {
        let collector = collector();
        let (a, b) = (collector.source("a".into()), collector.source("b".into()));
        tell(&a, 1, "");
        let mut follower = collector.follow();
        follower.next();
        drop((a, b));
        assert_eq!(follower.next().0.gone, ["a"], "of b it never heard");
        assert_eq!(follower.next().0, Directives::default());
    }

    #[tokio::test(start_paused = true)]
    async fn other_words_for_the_same_decision_can_wait() {
        let collector = collector();
        let a = collector.source("a".into());
        tell(&a, 1, "one");
        let mut follower = collector.follow();
        follower.next();
        tell(&a, 1, "still one");
        assert!(!follower.urgent.has_changed().expect("the collector lives"));
        assert_eq!(follower.next().0.models.first().map(|d| &*d.why), Some("still one"));
        tell(&a, 2, "two");
        follower.news().await;
    }

    #[test]
    fn a_long_board_comes_in_several_messages() {
        let collector = collector();
        let why = "x".repeat(900);
        let sources: Vec<_> = (0..1000).map(|n| collector.source(format!("model-{n}").into())).collect();
        sources.iter().for_each(|source| tell(source, 1, &why));
        let mut follower = collector.follow();
        let mut told = 0;
        loop {
            let (message, more) = follower.next();
            assert!(message.encoded_len() < 2 * MESSAGE_BYTES);
            told += message.models.len();
            if !more {
                break;
            }
        }
        assert_eq!(told, 1000);
    }

    #[test]
    fn a_source_that_was_replaced_has_no_say() {
        let collector = collector();
        let before = collector.source("a".into());
        let after = collector.source("a".into());
        tell(&after, 2, "");
        tell(&before, 1, "");
        before.restore();
        drop(before);
        assert_eq!(models(&collector.follow().next().0), [("a", 2)]);
    }
}
