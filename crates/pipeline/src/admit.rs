//! What a request must have before it may wait: memory for its bytes, charged before they are read.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Rejection;

/// Granularity of the memory budget.
const UNIT: usize = 1024;
/// How long reading of a body pauses for memory before the request is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// The process-wide budget for bytes of requests that are being read, waiting or in flight.
#[derive(Clone, Debug)]
pub struct Memory {
    units: Arc<Semaphore>,
}

impl Memory {
    /// A budget of `bytes`, rounded up to whole KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { units: Arc::new(Semaphore::new(bytes.div_ceil(UNIT))) }
    }

    /// Takes `bytes` from the budget, waiting at most a second for others to give theirs back.
    ///
    /// # Errors
    /// [`Rejection::MemoryFull`] when the budget does not have them in time.
    pub async fn charge(&self, bytes: usize) -> Result<Charge, Rejection> {
        let permit = self.take(bytes).await?;
        Ok(Charge { held: Some(Held { memory: self.clone(), permit }), bytes })
    }

    /// Bytes of the budget that nobody holds.
    #[must_use]
    pub fn available(&self) -> usize {
        self.units.available_permits() * UNIT
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Rejection> {
        let full = Rejection::MemoryFull { retry_after: PATIENCE };
        let units = u32::try_from(bytes.div_ceil(UNIT)).map_err(|_| full.clone())?;
        if let Ok(permit) = Arc::clone(&self.units).try_acquire_many_owned(units) {
            return Ok(permit);
        }
        let wait = Arc::clone(&self.units).acquire_many_owned(units);
        tokio::time::timeout(PATIENCE, wait).await.ok().and_then(Result::ok).ok_or(full)
    }
}

/// Bytes taken from a [`Memory`], given back on drop.
#[derive(Debug, Default)]
pub struct Charge {
    held: Option<Held>,
    bytes: usize,
}

#[derive(Debug)]
struct Held {
    memory: Memory,
    permit: OwnedSemaphorePermit,
}

impl Charge {
    /// A charge of nothing against no budget: for calls that a test or the gateway itself makes.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes this a charge of at least `bytes`, before they are allocated.
    ///
    /// # Errors
    /// [`Rejection::MemoryFull`]; what was held stays held.
    pub async fn raise_to(&mut self, bytes: usize) -> Result<(), Rejection> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let paid = held.permit.num_permits() * UNIT;
        if bytes > paid {
            held.permit.merge(held.memory.take(bytes - paid).await?);
        }
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }
}
