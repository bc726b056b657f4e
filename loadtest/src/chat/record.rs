//! What is kept of chat completions besides what is kept of all requests.

use std::time::Duration;

use super::reply::Reply;
use crate::record::{Durations, Moments};

/// What makes a good answer count as goodput; what is `None` is not asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Objective {
    /// From the intended time to the end of the answer.
    pub(crate) latency: Option<Duration>,
    /// From the intended time to the first text.
    pub(crate) first_token: Option<Duration>,
    /// Time per token after the first.
    pub(crate) per_token: Option<Duration>,
}

impl Objective {
    /// Whether an answer that took `latency` met it. An answer that is no chat completion has no tokens to judge, and
    /// one that came at once has no time between them.
    pub(crate) fn is_met(&self, latency: Duration, reply: Option<&Reply>, moments: Moments) -> bool {
        let first = reply.map(|reply| reply.first - moments.intended);
        let within = |taken: Option<Duration>, limit: Option<Duration>| {
            taken.zip(limit).is_none_or(|(taken, limit)| taken <= limit)
        };
        within(Some(latency), self.latency)
            && within(first, self.first_token)
            && within(reply.and_then(Reply::time_per_token), self.per_token)
    }
}

/// Of good answers only.
#[derive(Clone, Debug)]
pub(crate) struct ChatRecord {
    /// From the intended time to the first text.
    pub(crate) first_token: Durations,
    /// From the actual start to the first text.
    pub(crate) first_token_service: Durations,
    /// Time per token after the first, of answers with more than one frame.
    pub(crate) per_token: Durations,
    /// The longest time between two frames of each answer.
    pub(crate) gap: Durations,
    pub(crate) frames: u64,
    pub(crate) tokens: u64,
    pub(crate) prompt_tokens: u64,
    /// Tokens of prompts that servers had in their prefix caches, where they say so.
    pub(crate) cached_tokens: u64,
}

impl ChatRecord {
    pub(crate) fn new() -> Self {
        Self {
            first_token: Durations::new(),
            first_token_service: Durations::new(),
            per_token: Durations::new(),
            gap: Durations::new(),
            frames: 0,
            tokens: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
        }
    }

    pub(crate) fn add(&mut self, reply: &Reply, moments: Moments) {
        self.first_token.record(reply.first - moments.intended);
        self.first_token_service.record(reply.first - moments.started);
        if let Some(per_token) = reply.time_per_token() {
            self.per_token.record(per_token);
            self.gap.record(reply.gap_max);
        }
        self.frames += reply.frames;
        self.tokens += reply.tokens();
        if let Some(usage) = reply.usage {
            self.prompt_tokens += usage.prompt_tokens;
            self.cached_tokens += usage.cached_tokens();
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.first_token.merge(&other.first_token);
        self.first_token_service.merge(&other.first_token_service);
        self.per_token.merge(&other.per_token);
        self.gap.merge(&other.gap);
        self.frames += other.frames;
        self.tokens += other.tokens;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// An answer of five tokens whose first came after `first` ms and whose last after 40 ms more.
    fn answer(first: u64) -> (Reply, Moments) {
        let intended = Instant::now();
        let first = intended + Duration::from_millis(first);
        let last = first + Duration::from_millis(40);
        let reply = Reply {
            first,
            last,
            gap_max: Duration::from_millis(15),
            frames: 5,
            usage: None,
            text: String::new(),
        };
        (reply, Moments { intended, started: intended + Duration::from_millis(20), ended: last })
    }

    #[test]
    fn the_first_token_counts_from_the_intended_time() {
        let (reply, moments) = answer(100);
        let mut record = ChatRecord::new();
        record.add(&reply, moments);
        assert_eq!(record.first_token.max().as_millis(), 100);
        assert_eq!(record.first_token_service.max().as_millis(), 80);
        assert_eq!(record.per_token.max().as_millis(), 10);
        assert_eq!(record.gap.max().as_millis(), 15);
        let mut both = record.clone();
        both.merge(&record);
        assert_eq!((both.tokens, both.frames, both.first_token.count()), (10, 10, 2));
    }

    #[test]
    fn an_answer_is_goodput_when_all_that_was_asked_for_is_met() {
        let (reply, moments) = answer(100);
        let met = |first_token: Option<u64>, per_token: Option<u64>, latency: Option<u64>| {
            let limit = |millis: Option<u64>| millis.map(Duration::from_millis);
            let objective = Objective {
                latency: limit(latency),
                first_token: limit(first_token),
                per_token: limit(per_token),
            };
            objective.is_met(moments.ended - moments.intended, Some(&reply), moments)
        };
        assert!(met(None, None, None));
        assert!(met(Some(100), Some(10), Some(140)));
        assert!(!met(Some(99), Some(10), None));
        assert!(!met(Some(100), Some(9), None));
        assert!(!met(None, None, Some(139)));
    }
}
