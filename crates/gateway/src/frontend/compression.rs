//! Compressed bodies of requests, bounded by the same limit as plain ones.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use http::{HeaderMap, header};

use super::intake::{Received, too_large};
use crate::status::{Failure, Situation, quote};

/// Decompressed between two looks at the memory budget and at other tasks.
const STEP: usize = 64 << 10;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    /// The zlib format, as HTTP means it.
    Deflate,
}

impl Compression {
    /// Reads `content-encoding`. At most one encoding is accepted: two only serve to build bombs.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Failure> {
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(first) = encodings.next() else { return Ok(None) };
        let name = String::from_utf8_lossy(first.as_bytes());
        match (name.trim().to_ascii_lowercase().as_str(), encodings.next()) {
            ("identity", None) => Ok(None),
            ("gzip" | "x-gzip", None) => Ok(Some(Self::Gzip)),
            ("deflate", None) => Ok(Some(Self::Deflate)),
            _ => {
                let sentence =
                    format!("content encoding {} is not supported; use one of gzip, deflate", quote(&name));
                Err(Failure::new(Situation::UnsupportedMediaType, sentence))
            }
        }
    }

    /// Decompresses, charging memory for each step before it is taken.
    ///
    /// # Errors
    /// `body_too_large` beyond `length_max` bytes, `queue_full` without memory, `bad_request` for corrupt data.
    pub(crate) async fn undo(self, received: Received, length_max: usize) -> Result<Received, Failure> {
        let Received { body, mut charge } = received;
        let compressed = body.len();
        let mut source: Box<dyn Read + Send> = match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(std::io::Cursor::new(body))),
            Self::Deflate => Box::new(ZlibDecoder::new(std::io::Cursor::new(body))),
        };
        let mut plain = Vec::new();
        loop {
            charge.raise_to(compressed + plain.len() + STEP).await?;
            let mut step = source.by_ref().take(STEP as u64);
            let grown = step.read_to_end(&mut plain).map_err(|_| self.corrupt())?;
            if plain.len() > length_max {
                return Err(too_large("decompressed body", plain.len(), length_max));
            }
            if grown < STEP {
                return Ok(Received { body: Bytes::from(plain), charge });
            }
            tokio::task::yield_now().await;
        }
    }

    fn corrupt(self) -> Failure {
        let name = match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        };
        Failure::new(Situation::BadRequest, format!("the body is not valid {name} data"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;
    use pipeline::admit::{Charge, Memory};

    use super::*;

    fn gzip(plain: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    async fn undo(body: Bytes, length_max: usize) -> Result<Bytes, Situation> {
        let received = Received { body, charge: Charge::none() };
        let plain = Compression::Gzip.undo(received, length_max).await;
        plain.map(|plain| plain.body).map_err(|failure| failure.situation)
    }

    #[tokio::test]
    async fn gzip_is_undone() {
        let plain = vec![b'x'; 200_000];
        assert_eq!(undo(gzip(&plain), 1 << 20).await.unwrap(), plain);
    }

    #[tokio::test]
    async fn a_bomb_stops_at_the_limit_and_corrupt_data_is_refused() {
        let bomb = gzip(&vec![0; 8 << 20]);
        assert_eq!(undo(bomb, 1 << 20).await, Err(Situation::BodyTooLarge));
        assert_eq!(undo(Bytes::from_static(b"no gzip"), 1 << 20).await, Err(Situation::BadRequest));
        let cut = gzip(&[1, 2, 3, 4]).slice(..12);
        assert_eq!(undo(cut, 1 << 20).await, Err(Situation::BadRequest));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_charged_for_what_comes_out() {
        let memory = Memory::new(256 << 10);
        let received = Received { charge: memory.charge(1024).await.unwrap(), body: gzip(&vec![0; 1 << 20]) };
        let refused = Compression::Gzip.undo(received, 1 << 30).await.unwrap_err();
        assert_eq!(refused.situation, Situation::QueueFull);
        assert_eq!(memory.available(), 256 << 10);
    }

    #[test]
    fn only_one_known_encoding_is_accepted() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, value.parse().unwrap());
            }
            Compression::of(&headers).map_err(|failure| failure.situation)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["GZIP"]), Ok(Some(Compression::Gzip)));
        assert_eq!(of(&["deflate"]), Ok(Some(Compression::Deflate)));
        for bad in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"]] {
            assert_eq!(of(bad), Err(Situation::UnsupportedMediaType), "{bad:?}");
        }
    }
}
