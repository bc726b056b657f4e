//! The gRPC frame: a flag, a four-byte length, one message.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use hyper::body::Incoming;
use prost::Message;

use super::invalid;
use crate::{
    frontend::{
        compression::Compression,
        intake::{Growing, Pace, Received, Terms, too_large, truncated},
    },
    status::{Failure, Situation, quote},
};

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// Length of a frame's head.
const HEAD: usize = 5;

/// Reads messages off a request's body.
#[derive(Debug)]
pub(super) struct Reader<B = Incoming> {
    body: B,
    /// Read and not yet taken.
    ahead: Bytes,
    compression: Option<Compression>,
}

impl<B> Reader<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    /// # Errors
    /// `unsupported_media_type` for a `grpc-encoding` that is not known here.
    pub(super) fn new(headers: &HeaderMap, body: B) -> Result<Self, Failure> {
        let compression = match headers.get(ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => None,
            Some(b"gzip") => Some(Compression::Gzip),
            Some(b"deflate") => Some(Compression::Deflate),
            Some(other) => {
                let name = quote(&String::from_utf8_lossy(other));
                let sentence = format!("grpc-encoding {name} is not supported; use gzip or identity");
                return Err(Failure::new(Situation::UnsupportedMediaType, sentence));
            }
        };
        Ok(Self { body, ahead: Bytes::new(), compression })
    }

    /// The next message, or `None` at the end of the client's side. Waits `patience` for it to begin.
    pub(super) async fn next(
        &mut self,
        terms: &Terms<'_>,
        patience: Duration,
    ) -> Result<Option<Received>, Failure> {
        let mut pace = Pace::start(patience, terms.deadline);
        let Some(mut head) = self.take_head(&mut pace).await? else { return Ok(None) };
        let flag = head.get_u8();
        let length = head.get_u32() as usize;
        let compression = self.compression_of(flag)?;
        if length > terms.body_max {
            return Err(too_large("message", length, terms.body_max));
        }
        let received = self.take(length, terms).await?;
        match compression {
            None => Ok(Some(received)),
            Some(compression) => compression.undo(received, terms.body_max).await.map(Some),
        }
    }

    fn compression_of(&self, flag: u8) -> Result<Option<Compression>, Failure> {
        match (flag, self.compression) {
            (0, _) => Ok(None),
            (1, Some(compression)) => Ok(Some(compression)),
            (1, None) => {
                Err(invalid("a message is marked as compressed, but grpc-encoding names no encoding"))
            }
            _ => Err(invalid("the first byte of a message must be 0 or 1")),
        }
    }

    /// The head of the next message, or `None` if the body ends before it.
    async fn take_head(&mut self, pace: &mut Pace) -> Result<Option<Bytes>, Failure> {
        let mut head = BytesMut::new();
        loop {
            if head.is_empty() && self.ahead.len() >= HEAD {
                return Ok(Some(self.ahead.split_to(HEAD)));
            }
            let missing = HEAD - head.len();
            head.put(self.ahead.split_to(missing.min(self.ahead.len())));
            if head.len() == HEAD {
                return Ok(Some(head.freeze()));
            }
            match pace.piece(&mut self.body).await? {
                Some(piece) => self.ahead = piece,
                None if head.is_empty() => return Ok(None),
                None => return Err(truncated()),
            }
        }
    }

    /// Exactly `length` bytes.
    async fn take(&mut self, length: usize, terms: &Terms<'_>) -> Result<Received, Failure> {
        if self.ahead.len() >= length {
            let charge = terms.memory.charge(length).await?;
            return Ok(Received { body: self.ahead.split_to(length), charge });
        }
        let mut pace = Pace::start(terms.idle, terms.deadline);
        let mut taken = Growing::start(length, terms.memory).await?;
        loop {
            let missing = length - taken.len();
            taken.push(&self.ahead.split_to(missing.min(self.ahead.len()))).await?;
            if taken.len() == length {
                return Ok(taken.finish());
            }
            self.ahead = pace.piece(&mut self.body).await?.ok_or_else(truncated)?;
        }
    }
}

/// A message with its head; `None` if its length does not fit there.
pub(super) fn encode(message: &impl Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let mut frame = begin(length, length)?;
    message.encode(&mut frame).ok()?;
    Some(frame.freeze())
}

/// An encoded message with its head; `None` if its length does not fit there.
pub(super) fn of(message: &[u8]) -> Option<Bytes> {
    let mut frame = begin(message.len(), message.len())?;
    frame.put_slice(message);
    Some(frame.freeze())
}

/// The head of a message of `length` bytes, with room for `room` of them.
pub(super) fn begin(length: usize, room: usize) -> Option<BytesMut> {
    let announced = u32::try_from(length).ok()?;
    let mut frame = BytesMut::with_capacity(HEAD + room);
    frame.put_u8(0);
    frame.put_u32(announced);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use pipeline::admit::Memory;
    use tokio::time::Instant;

    use super::*;

    const MAX: usize = 1 << 10;

    /// What is read from pieces of a body, until its end or the first failure.
    async fn read(pieces: &[&'static [u8]], encoding: Option<&'static str>) -> Result<Vec<Bytes>, Situation> {
        let frames: Vec<_> = pieces.iter().map(|p| Ok::<_, ()>(Frame::data(Bytes::from_static(p)))).collect();
        let headers = encoding.map(|name| (ENCODING, name.parse().unwrap()));
        let body = StreamBody::new(stream::iter(frames));
        let mut reader =
            Reader::new(&HeaderMap::from_iter(headers), body).map_err(|failure| failure.situation)?;
        let idle = Duration::from_secs(1);
        let memory = Memory::new(1 << 20);
        let terms = Terms { memory: &memory, body_max: MAX, idle, deadline: Instant::now() + 60 * idle };
        let mut messages = Vec::new();
        while let Some(message) = reader.next(&terms, idle).await.map_err(|failure| failure.situation)? {
            messages.push(message.body);
        }
        Ok(messages)
    }

    #[tokio::test]
    async fn messages_are_found_however_they_are_cut() {
        let whole = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01d";
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let pieces = [&whole[..first], &whole[first..second], &whole[second..]];
                assert_eq!(read(&pieces, None).await.unwrap(), ["abc", "", "d"]);
            }
        }
    }

    #[tokio::test]
    async fn bad_frames_are_refused() {
        for (bytes, encoding, situation) in [
            (&b"\0\0\0"[..], None, Situation::BadRequest),
            (b"\0\0\0\0\x05abc", None, Situation::BadRequest),
            (b"\x01\0\0\0\x01a", None, Situation::BadRequest),
            (b"\x02\0\0\0\x01a", None, Situation::BadRequest),
            (b"\x01\0\0\0\x01a", Some("gzip"), Situation::BadRequest),
            (b"\0\xff\xff\xff\xff", None, Situation::BodyTooLarge),
            (b"\0\0\0\x04\x01", None, Situation::BodyTooLarge),
            (b"\0\0\0\0\x01a", Some("snappy"), Situation::UnsupportedMediaType),
        ] {
            assert_eq!(read(&[bytes], encoding).await, Err(situation), "{bytes:?}");
        }
    }
}
