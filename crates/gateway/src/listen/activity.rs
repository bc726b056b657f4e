//! How busy a connection is: calls under way, and since when it has been idle or reading a head.
//!
//! One slow timer per connection looks at this, in place of hyper's timer per request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::unread::{Place, Unread};

/// Looks after which an answer has been left unread for so long that other calls had better go elsewhere.
const UNREAD_LOOKS: usize = 10;
/// Looks after which it has been left unread for too long.
const STALLED_LOOKS: usize = 15;

/// Shared by a connection's transport, its calls, and the task that watches over it.
#[derive(Debug)]
pub(crate) struct Activity {
    opened: Instant,
    calls: AtomicU32,
    /// Milliseconds after `opened` at which the last call ended.
    idle_since: AtomicU64,
    /// Milliseconds after `opened`, plus one, at which bytes came while no call was under way; 0 for none.
    head_since: AtomicU64,
    unread: Unread,
}

/// What a look at a connection finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// No call for too long: close it gracefully.
    Idle,
    /// A head has been coming for too long: close it at once.
    HeadTooSlow,
    /// An answer is not being read: take no new calls.
    Unread,
    /// An answer has not been read for too long: close it at once.
    Stalled,
}

impl Activity {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            calls: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            unread: Unread::default(),
        })
    }

    /// Bytes have come from the client.
    pub(crate) fn bytes_read(&self) {
        if self.calls.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.now() + 1, Relaxed);
        }
    }

    /// A call begins; it ends when the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.calls.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
        Busy { activity: Arc::clone(self), waits: None }
    }

    /// Looks at the connection; to be called at even intervals.
    pub(crate) fn verdict(&self, head_max: Option<Duration>, idle_max: Duration) -> Verdict {
        match self.unread.look() {
            STALLED_LOOKS.. => return Verdict::Stalled,
            UNREAD_LOOKS.. => return Verdict::Unread,
            _ if self.calls.load(Relaxed) > 0 => return Verdict::Fine,
            _ => {}
        }
        let now = self.now();
        let since = |then: u64| Duration::from_millis(now.saturating_sub(then));
        let head = self.head_since.load(Relaxed);
        if head > 0 && head_max.is_some_and(|max| since(head - 1) >= max) {
            return Verdict::HeadTooSlow;
        }
        if since(self.idle_since.load(Relaxed)) >= idle_max { Verdict::Idle } else { Verdict::Fine }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One call under way.
#[derive(Debug)]
pub(crate) struct Busy {
    activity: Arc<Activity>,
    /// There while an answer waits for its client.
    waits: Option<Place>,
}

impl Busy {
    /// There is something of the answer to be written: it is the client's turn.
    pub(crate) fn awaits_client(&mut self) {
        self.awaits_gateway();
        self.waits = Some(self.activity.unread.wait());
    }

    /// There is nothing to be written yet.
    pub(crate) fn awaits_gateway(&mut self) {
        if let Some(place) = self.waits.take() {
            self.activity.unread.leave(place);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.awaits_gateway();
        self.activity.idle_since.store(self.activity.now(), Relaxed);
        self.activity.calls.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn idleness_counts_from_the_end_of_the_last_call() {
        let activity = Activity::start();
        advance(IDLE / 2).await;
        let call = activity.begin();
        advance(2 * IDLE).await;
        assert_eq!(activity.verdict(Some(HEAD), IDLE), Verdict::Fine);
        drop(call);
        advance(IDLE - Duration::from_millis(1)).await;
        assert_eq!(activity.verdict(Some(HEAD), IDLE), Verdict::Fine);
        advance(Duration::from_millis(1)).await;
        assert_eq!(activity.verdict(Some(HEAD), IDLE), Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_ends_the_connection_in_two_steps() {
        let activity = Activity::start();
        let (mut stuck, mut computing, mut moving) = (activity.begin(), activity.begin(), activity.begin());
        stuck.awaits_client();
        computing.awaits_client();
        computing.awaits_gateway();
        let verdicts: Vec<Verdict> = (0..STALLED_LOOKS)
            .map(|_| {
                moving.awaits_client();
                activity.verdict(Some(HEAD), IDLE)
            })
            .collect();
        let (fine, rest) = verdicts.split_at(UNREAD_LOOKS - 1);
        let (unread, stalled) = rest.split_at(STALLED_LOOKS - UNREAD_LOOKS);
        assert!(fine.iter().all(|v| *v == Verdict::Fine), "{verdicts:?}");
        assert!(unread.iter().all(|v| *v == Verdict::Unread), "{verdicts:?}");
        assert_eq!(stalled, [Verdict::Stalled]);
        drop(stuck);
        assert_eq!(activity.verdict(Some(HEAD), IDLE), Verdict::Fine);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_timed_from_its_first_byte() {
        let activity = Activity::start();
        advance(HEAD).await;
        activity.bytes_read();
        advance(HEAD / 2).await;
        activity.bytes_read();
        assert_eq!(activity.verdict(Some(HEAD), IDLE), Verdict::Fine);
        advance(HEAD / 2).await;
        assert_eq!(activity.verdict(Some(HEAD), IDLE), Verdict::HeadTooSlow);
        assert_eq!(activity.verdict(None, IDLE), Verdict::Fine);
    }
}
