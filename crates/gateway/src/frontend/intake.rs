//! Reading bodies of requests: memory is charged before bytes are read, and a client must keep a pace.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use pipeline::admit::{Charge, Memory};
use tokio::time::{Instant, timeout, timeout_at};

use crate::status::{Failure, Situation};

/// Most that is charged before a byte has come: who announces much must also send it.
const FIRST_CHARGE: usize = 64 << 10;
/// Most bytes that are read of an unwanted body to keep its connection, and for how long they may take.
const DISCARD_MAX: u64 = 64 << 10;
const DISCARD_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes per second below which a client is taken to be stalling on purpose.
const PACE_MIN: u64 = 1 << 10;

/// Under which terms a body is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) memory: &'a Memory,
    /// Bytes.
    pub(crate) body_max: usize,
    /// Longest pause between two pieces.
    pub(crate) idle: Duration,
    /// When the call must have its answer.
    pub(crate) deadline: Instant,
}

/// A whole body and the memory it was charged.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) body: Bytes,
    pub(crate) charge: Charge,
}

/// Reads a body to its end.
///
/// # Errors
/// `body_too_large` before anything is read where the length is announced; `queue_full` without memory;
/// `request_timeout`, `deadline_exceeded`, and `bad_request` for a body that breaks off.
pub(crate) async fn read<B>(mut body: B, terms: &Terms<'_>) -> Result<Received, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let hint = body.size_hint();
    let announced = hint.exact().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let at_least = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
    check_length(at_least, terms.body_max)?;
    let mut whole = Growing::start(announced.unwrap_or(terms.body_max), terms.memory).await?;
    let mut pace = Pace::start(terms.idle, terms.deadline);
    let Some(first) = pace.piece(&mut body).await? else { return Ok(whole.finish()) };
    if announced == Some(first.len()) {
        whole.charge.raise_to(first.len()).await?;
        return Ok(Received { body: first, charge: whole.charge });
    }
    let mut piece = Some(first);
    while let Some(bytes) = piece {
        check_length(whole.bytes.len() + bytes.len(), terms.body_max)?;
        whole.push(&bytes).await?;
        piece = pace.piece(&mut body).await?;
    }
    Ok(whole.finish())
}

/// Bytes that come in pieces. At most twice what came is charged and allocated, however much is announced.
#[derive(Debug)]
pub(crate) struct Growing {
    bytes: BytesMut,
    charge: Charge,
    length_max: usize,
}

impl Growing {
    /// For at most `length_max` bytes.
    pub(crate) async fn start(length_max: usize, memory: &Memory) -> Result<Self, Failure> {
        let charge = memory.charge(length_max.min(FIRST_CHARGE)).await?;
        Ok(Self { bytes: BytesMut::new(), charge, length_max })
    }

    /// Adds a piece; the caller sees to it that there is no more than was said.
    pub(crate) async fn push(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let length = self.bytes.len() + piece.len();
        if length > self.charge.bytes() {
            self.charge.raise_to((length * 2).min(self.length_max)).await?;
        }
        if length > self.bytes.capacity() {
            self.bytes.reserve(self.charge.bytes() - self.bytes.len());
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn finish(self) -> Received {
        Received { body: self.bytes.freeze(), charge: self.charge }
    }
}

/// Reads the rest of a body that nobody wants, if it is short and already on its way.
pub(crate) async fn discard<B>(body: &mut B)
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().exact().is_none_or(|left| left > DISCARD_MAX) {
        return;
    }
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    // One that does not come ends the connection, which is all that is lost.
    let _ = timeout(DISCARD_PATIENCE, rest).await;
}

fn check_length(length: usize, length_max: usize) -> Result<(), Failure> {
    if length <= length_max {
        return Ok(());
    }
    Err(too_large("body", length, length_max))
}

/// `what` of `length` bytes is beyond the limit.
pub(crate) fn too_large(what: &str, length: usize, length_max: usize) -> Failure {
    let sentence =
        format!("{what} of {} exceeds the limit of {} (limits.maxBody)", size(length), size(length_max));
    Failure::new(Situation::BodyTooLarge, sentence)
}

/// Bytes for people, with the unit they set limits in.
fn size(bytes: usize) -> String {
    let tenths = |unit: usize| (bytes / unit, bytes % unit * 10 / unit);
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => {
            let (whole, tenth) = tenths(1 << 10);
            format!("{whole}.{tenth} KiB")
        }
        _ => {
            let (whole, tenth) = tenths(1 << 20);
            format!("{whole}.{tenth} MiB")
        }
    }
}

/// Holds a client to a pace: no pause longer than `idle`, and [`PACE_MIN`] on the whole.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    received: u64,
    idle: Duration,
    deadline: Instant,
}

impl Pace {
    pub(crate) fn start(idle: Duration, deadline: Instant) -> Self {
        Self { started: Instant::now(), received: 0, idle, deadline }
    }

    /// The next data of the body, or `None` at its end. Trailers are of no interest.
    pub(crate) async fn piece<B>(&mut self, body: &mut B) -> Result<Option<Bytes>, Failure>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            let until = self.patience();
            let frame = match timeout_at(until, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(truncated()),
                Err(_) if until == self.deadline => {
                    return Err(Failure::deadline_exceeded("while the body was read"));
                }
                Err(_) => return Err(self.stalled()),
            };
            if let Ok(data) = frame.into_data() {
                self.received += data.len() as u64;
                return Ok(Some(data));
            }
        }
    }

    /// Until when the next piece must come.
    fn patience(&self) -> Instant {
        let steady = self.started + self.idle + Duration::from_secs(self.received / PACE_MIN);
        (Instant::now() + self.idle).min(steady).min(self.deadline)
    }

    fn stalled(&self) -> Failure {
        let sentence = format!(
            "the body came too slowly: {} bytes in {:.1} s",
            self.received,
            self.started.elapsed().as_secs_f64()
        );
        Failure::new(Situation::RequestTimeout, sentence)
    }
}

/// The client broke off, or its framing makes no sense.
pub(crate) fn truncated() -> Failure {
    Failure::new(Situation::BadRequest, "the body broke off before its end")
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    const MAX: usize = 1 << 20;

    async fn read_in<B>(body: B, memory: &Memory) -> Result<Received, Situation>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let deadline = Instant::now() + Duration::from_secs(3600);
        let terms = Terms { memory, body_max: MAX, idle: Duration::from_secs(10), deadline };
        read(body, &terms).await.map_err(|failure| failure.situation)
    }

    fn pieces(
        sizes: impl IntoIterator<Item = usize, IntoIter: Send>,
        every: Duration,
    ) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let frames = stream::iter(sizes).then(move |size| async move {
            tokio::time::sleep(every).await;
            Ok(Frame::data(Bytes::from(vec![7; size])))
        });
        StreamBody::new(Box::pin(frames))
    }

    #[tokio::test]
    async fn a_whole_body_is_not_copied() {
        let body = Bytes::from_static(b"{}");
        let received = read_in(Full::new(body.clone()), &Memory::new(MAX)).await.unwrap();
        assert_eq!(received.body.as_ptr(), body.as_ptr());
    }

    #[tokio::test]
    async fn an_announced_length_over_the_limit_is_refused_and_charges_nothing() {
        let memory = Memory::new(4 * MAX);
        let body = Full::new(Bytes::from(vec![0; MAX + 1]));
        assert_eq!(read_in(body, &memory).await.unwrap_err(), Situation::BodyTooLarge);
        assert_eq!(memory.available(), 4 * MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_length_is_charged_as_it_grows_and_cut_at_the_limit() {
        let memory = Memory::new(4 * MAX);
        let received = read_in(pieces([MAX / 4; 4], Duration::ZERO), &memory).await.unwrap();
        assert_eq!(received.body.len(), MAX);
        assert_eq!(memory.available(), 3 * MAX);
        drop(received);
        let refused = read_in(pieces([MAX / 4; 5], Duration::ZERO), &memory).await.unwrap_err();
        assert_eq!(refused, Situation::BodyTooLarge);
        assert_eq!(memory.available(), 4 * MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn without_memory_nothing_is_read() {
        let memory = Memory::new(1024);
        let body = Full::new(Bytes::from(vec![0; 4096]));
        assert_eq!(read_in(body, &memory).await.unwrap_err(), Situation::QueueFull);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_announced_takes_no_memory_until_it_comes() {
        let memory = Memory::new(4 * MAX);
        let mut whole = Growing::start(4 * MAX, &memory).await.unwrap();
        assert_eq!(memory.available(), 4 * MAX - FIRST_CHARGE);
        for _ in 0..16 {
            whole.push(&[7; 100_000]).await.unwrap();
            let held = 4 * MAX - memory.available();
            // Every raise rounds up to a whole KiB.
            let most = 2 * whole.len() + 8 * 1024;
            assert!((whole.len()..=most).contains(&held), "{held} for {}", whole.len());
            assert!(whole.bytes.capacity() <= held);
        }
        assert_eq!(whole.finish().body.len(), 1_600_000);
        assert_eq!(memory.available(), 4 * MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_and_a_trickle_are_both_too_slow() {
        let memory = Memory::new(MAX);
        let paused = pieces([10, 10], Duration::from_secs(11));
        assert_eq!(read_in(paused, &memory).await.unwrap_err(), Situation::RequestTimeout);
        let trickle = pieces([1; 100], Duration::from_secs(1));
        assert_eq!(read_in(trickle, &memory).await.unwrap_err(), Situation::RequestTimeout);
        let steady = pieces([2048; 100], Duration::from_secs(1));
        assert_eq!(read_in(steady, &memory).await.unwrap().body.len(), 204_800);
    }

    #[test]
    fn sizes_are_written_in_the_unit_of_the_limit() {
        assert_eq!(size(17), "17 bytes");
        assert_eq!(size(64 << 20), "64.0 MiB");
        assert_eq!(size(73_504_153), "70.0 MiB");
        assert_eq!(size(1536), "1.5 KiB");
    }
}
