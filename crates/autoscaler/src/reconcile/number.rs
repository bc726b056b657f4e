//! The number of replicas that is asked for, where others may set it too: the platform has the last word, except
//! where that word is older than ours.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::fleet::Target;

/// How long the platform may show what stood before our last write, and how long a write whose reply was lost may
/// still come to be seen.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
/// Whoever the platform has no name for.
const SOMEBODY: &str = "somebody else";

/// What the fleet was last asked for, and by whom.
#[derive(Debug)]
pub(super) struct Number {
    wish: u32,
    word: Option<Word>,
    sent: Option<Sent>,
}

/// What the platform last said.
#[derive(Clone, Debug, PartialEq)]
struct Word {
    replicas: u32,
    foreign: Option<Arc<str>>,
}

/// Our last write, as long as the platform has not shown it.
#[derive(Clone, Copy, Debug)]
struct Sent {
    replicas: u32,
    at: Instant,
    reply: Reply,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reply {
    Written,
    /// It may have been carried out, or be yet.
    Lost,
}

impl Number {
    /// The platform's number, else `there`. Nobody has changed it: it is the first that is seen.
    pub(super) fn new(target: &Target, there: u32) -> Self {
        let word = Word::of(target);
        let wish = word.as_ref().map_or(there, |word| word.replicas);
        Self { wish, word, sent: None }
    }

    pub(super) fn wish(&self) -> u32 {
        self.wish
    }

    /// Adopts the platform's number, and says who has set it if that was not Tidegate.
    pub(super) fn follow(&mut self, target: &Target, now: Instant) -> Option<Arc<str>> {
        let word = Word::of(target);
        let before = std::mem::replace(&mut self.word, word.clone());
        let word = word?;
        self.sent = self.sent.filter(|sent| !sent.is_over(&word, target, now));
        if word.replicas == self.wish {
            return None;
        }
        let Some(before) = before else {
            self.wish = word.replicas;
            return None;
        };
        match self.sent {
            Some(sent) if sent.replicas == word.replicas => self.adopt(&word, None),
            Some(Sent { reply: Reply::Written, .. }) if word.foreign.is_none() || word == before => None,
            Some(Sent { reply: Reply::Lost, .. }) => self.adopt(&word, word.foreign.clone()),
            // Gateways may start the first replica where the leader is slow.
            None if word.foreign.is_none() && (self.wish, word.replicas) == (0, 1) => self.adopt(&word, None),
            _ => self.adopt(&word, Some(word.foreign.clone().unwrap_or_else(|| SOMEBODY.into()))),
        }
    }

    /// `replicas` were written.
    pub(super) fn written(&mut self, replicas: u32, now: Instant) {
        self.wish = replicas;
        let shown = self.word.as_ref().is_none_or(|word| word.replicas == replicas);
        self.sent = (!shown).then_some(Sent { replicas, at: now, reply: Reply::Written });
    }

    /// `replicas` may or may not have been written.
    pub(super) fn lost(&mut self, replicas: u32, now: Instant) {
        self.sent = Some(Sent { replicas, at: now, reply: Reply::Lost });
    }

    /// Nothing was written, because there was another number than this process believed. Where the platform does
    /// not say which, it is what is `there`.
    pub(super) fn corrected(&mut self, there: u32) {
        if self.word.is_none() {
            self.wish = there;
        }
    }

    fn adopt(&mut self, word: &Word, by: Option<Arc<str>>) -> Option<Arc<str>> {
        self.wish = word.replicas;
        self.sent = None;
        by
    }
}

impl Word {
    fn of(target: &Target) -> Option<Self> {
        Some(Self { replicas: target.replicas?, foreign: target.foreign.clone() })
    }
}

impl Sent {
    /// It was seen, or so long ago that it should have been: a platform that is not heard shows nothing.
    fn is_over(&self, word: &Word, target: &Target, now: Instant) -> bool {
        let late = target.unheard_since.is_none() && now.saturating_duration_since(self.at) > SHOWN_WITHIN;
        late || (self.reply == Reply::Written && word.replicas == self.replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(replicas: u32, foreign: Option<&str>) -> Target {
        Target { replicas: Some(replicas), foreign: foreign.map(Into::into), ..Target::default() }
    }

    fn number(replicas: u32) -> Number {
        Number::new(&target(replicas, None), 99)
    }

    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn without_a_platform_only_we_change_it() {
        let mut number = Number::new(&Target::default(), 3);
        assert_eq!(number.follow(&Target::default(), Instant::now()), None);
        number.written(5, Instant::now());
        assert_eq!((number.follow(&Target::default(), Instant::now()), number.wish()), (None, 5));
        number.corrected(2);
        assert_eq!(number.wish(), 2);
    }

    #[test]
    fn the_first_number_is_nobodys_doing() {
        let now = Instant::now();
        let mut number = Number::new(&Target::default(), 0);
        assert_eq!((number.follow(&target(4, Some("kubectl")), now), number.wish()), (None, 4));
        assert_eq!(number.follow(&target(4, Some("kubectl")), now), None);
        assert_eq!(number.follow(&Target::default(), now), None, "the object is gone");
        assert_eq!((number.follow(&target(1, Some("helm")), now), number.wish()), (None, 1), "a new one");
    }

    #[test]
    fn a_foreign_number_is_told_with_its_writer_once() {
        let (mut number, now) = (number(2), Instant::now());
        let edited = target(7, Some("kubectl"));
        assert_eq!((number.follow(&edited, now), number.wish()), (Some("kubectl".into()), 7));
        assert_eq!(number.follow(&edited, now), None);
        assert_eq!(number.follow(&target(3, None), now), Some(SOMEBODY.into()));
    }

    #[test]
    fn a_written_number_stands_until_the_platform_shows_it_or_another_one() {
        let (mut number, now) = (number(2), Instant::now());
        number.written(4, now);
        assert_eq!((number.follow(&target(2, None), now), number.wish()), (None, 4), "not shown yet");
        number.written(6, now);
        assert_eq!((number.follow(&target(4, None), now), number.wish()), (None, 6), "the one before");
        assert_eq!((number.follow(&target(6, None), now), number.wish()), (None, 6));
        assert_eq!(number.follow(&target(4, None), now), Some(SOMEBODY.into()), "after ours was shown");
        number.written(6, now);
        let kubectl = number.follow(&target(1, Some("kubectl")), now);
        assert_eq!((kubectl, number.wish()), (Some("kubectl".into()), 1));
    }

    #[test]
    fn a_platform_that_never_shows_what_was_written_is_right_in_the_end_if_it_is_heard() {
        let (mut number, now) = (number(2), Instant::now());
        number.written(4, now);
        let deaf = Target { unheard_since: Some(now), ..target(2, None) };
        assert_eq!((number.follow(&deaf, now + secs(300)), number.wish()), (None, 4));
        let back = number.follow(&target(2, None), now + secs(301));
        assert_eq!((back, number.wish()), (Some(SOMEBODY.into()), 2));
    }

    #[test]
    fn a_write_whose_reply_was_lost_is_ours_when_it_is_seen() {
        let (mut number, now) = (number(2), Instant::now());
        number.lost(4, now);
        assert_eq!((number.follow(&target(2, None), now), number.wish()), (None, 2));
        assert_eq!((number.follow(&target(4, None), now + secs(20)), number.wish()), (None, 4));
        number.lost(6, now);
        let edited = number.follow(&target(6, Some("kubectl")), now + secs(100));
        assert_eq!(edited, Some("kubectl".into()), "too late to be ours");
    }

    #[test]
    fn the_first_replica_may_be_a_gateways_doing() {
        let (mut number, now) = (number(0), Instant::now());
        assert_eq!((number.follow(&target(1, None), now), number.wish()), (None, 1));
    }
}
