//! Waking up at a given instant, to within tens of microseconds.
//!
//! The runtime's own timer has a resolution of a millisecond, which would be added to every latency measured from
//! the intended send time. Linux' timerfd has none of that and wakes the same event loop.

use tokio::time::Instant;

#[cfg(target_os = "linux")]
pub(crate) use timerfd::Pacer;

#[cfg(target_os = "linux")]
mod timerfd {
    use std::{fs::File, io, os::fd::AsFd as _};

    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    use tokio::{io::AsyncReadExt as _, net::unix::pipe::Receiver};

    use super::Instant;

    /// A timer of one task.
    #[derive(Debug)]
    pub(crate) struct Pacer {
        timer: TimerFd,
        /// The same timer as something to read from. A pipe's receiver is the one reader of any non-blocking
        /// descriptor that the runtime offers without unsafe code.
        expirations: Receiver,
    }

    impl Pacer {
        pub(crate) fn new() -> io::Result<Self> {
            let timer =
                TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
            let readable = File::from(timer.as_fd().try_clone_to_owned()?);
            Ok(Self { timer, expirations: Receiver::from_file_unchecked(readable)? })
        }

        /// Returns at once if `instant` has passed.
        pub(crate) async fn until(&mut self, instant: Instant) -> io::Result<()> {
            let left = instant.saturating_duration_since(Instant::now());
            // A timer of zero would be disarmed rather than due.
            if left.is_zero() {
                return Ok(());
            }
            self.timer.set(Expiration::OneShot(left.into()), TimerSetTimeFlags::empty())?;
            // The kernel gives the number of expirations, eight bytes at once; it is one.
            self.expirations.read_u64_le().await.map(drop)
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) use coarse::Pacer;

#[cfg(not(target_os = "linux"))]
mod coarse {
    use super::Instant;

    /// Wakes up to a millisecond late; the lag is measured and shown.
    #[derive(Debug)]
    pub(crate) struct Pacer;

    impl Pacer {
        pub(crate) fn new() -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(crate) async fn until(&mut self, instant: Instant) -> std::io::Result<()> {
            tokio::time::sleep_until(instant).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_never_wakes_early_and_does_not_wait_for_the_past() {
        let mut pacer = Pacer::new().unwrap();
        for micros in [0, 150, 900, 2_300] {
            let instant = Instant::now() + Duration::from_micros(micros);
            pacer.until(instant).await.unwrap();
            assert!(Instant::now() >= instant);
        }
        pacer.until(Instant::now() - Duration::from_secs(1)).await.unwrap();
    }
}
