//! How often we write: a burst at once, then a few a second, whatever a schedule asks for five hundred models.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::ApiError;

const BURST: u32 = 25;
const EVERY: Duration = Duration::from_millis(200);
/// Who would wait for longer is sent away: until then there is something newer to write.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Turns to write, given out in order.
#[derive(Debug)]
pub(super) struct Budget {
    /// When all turns given out so far have been paid for.
    paid: Mutex<Instant>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { paid: Mutex::new(Instant::now()) }
    }

    /// Returns when it is the caller's turn. A caller that goes away first has used its turn.
    pub(super) async fn turn(&self) -> Result<(), ApiError> {
        sleep_until(self.reserve(Instant::now())?).await;
        Ok(())
    }

    fn reserve(&self, now: Instant) -> Result<Instant, ApiError> {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*paid).max(now) + EVERY;
        let turn = next.checked_sub(EVERY * BURST).map_or(now, |turn| turn.max(now));
        let wait = turn - now;
        if wait > WAIT_MAX {
            return Err(ApiError::Throttled { retry_after: Some(wait) });
        }
        *paid = next;
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_at_once_and_the_rest_at_five_a_second_until_it_is_too_late() {
        let (budget, start) = (Budget::new(), Instant::now());
        let mut turns = Vec::new();
        while let Ok(turn) = budget.reserve(start) {
            turns.push(turn - start);
        }
        assert_eq!(turns.iter().filter(|turn| turn.is_zero()).count(), 25);
        assert_eq!(turns.last(), Some(&Duration::from_secs(5)));
        assert_eq!(turns.len(), 50);
        assert!(budget.reserve(start + EVERY).is_ok());
    }
}
