//! Bodies of responses: one type for all of them, so that the common ones are not boxed.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Version};
use http_body::{Frame, SizeHint};

use crate::listen::activity::Busy;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Most bytes that are out of our hands while a client does not read them.
const PIECE_MAX: usize = 64 << 10;

/// A response body.
#[derive(Debug)]
pub(crate) struct Body {
    kind: Kind,
    hold: Hold,
}

/// What keeps a connection from being taken for idle, and tells it whose turn it is: client's or gateway's.
#[derive(Debug)]
enum Hold {
    Nothing,
    /// Until the last piece is taken over, by a protocol that then has little left to write.
    UntilTaken(Busy),
    /// Until the last piece is written, by a protocol whose clients decide when that is.
    UntilWritten(Busy),
}

/// The last piece of data.
#[derive(Debug)]
struct LastPiece {
    data: Bytes,
    _busy: Busy,
}

impl AsRef<[u8]> for LastPiece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

enum Kind {
    /// Whatever is left of data, then of trailers.
    Known { head: Option<Bytes>, data: Option<Bytes>, trailers: Option<Box<HeaderMap>> },
    /// Frames as they come. Dropped with the body, which cancels what makes them.
    Stream(Pin<Box<dyn Stream<Item = Frame<Bytes>> + Send>>),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known { .. } => "Known",
            Self::Stream(_) => "Stream",
        })
    }
}

impl Body {
    pub(crate) fn empty() -> Self {
        Kind::Known { head: None, data: None, trailers: None }.into()
    }

    pub(crate) fn full(data: Bytes) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Kind::Known { head: None, data, trailers: None }.into()
    }

    /// `data`, then `trailers`.
    pub(crate) fn with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        let trailers = Some(Box::new(trailers));
        Kind::Known { head: None, data: Some(data), trailers }.into()
    }

    /// `head`, `data`, then `trailers`.
    pub(crate) fn in_two(head: Bytes, data: Bytes, trailers: HeaderMap) -> Self {
        let trailers = Some(Box::new(trailers));
        Kind::Known { head: Some(head), data: Some(data), trailers }.into()
    }

    pub(crate) fn stream(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Self {
        Kind::Stream(Box::pin(frames)).into()
    }

    /// Keeps a call of `version` under way for as long as its answer is.
    pub(crate) fn held_by(self, mut busy: Busy, version: Version) -> Self {
        busy.awaits_client();
        let hold = if version == Version::HTTP_2 { Hold::UntilWritten(busy) } else { Hold::UntilTaken(busy) };
        Self { hold, ..self }
    }
}

impl Hold {
    /// Ties the last frame to what is held, if that is to last until it is written.
    fn hand_over(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match std::mem::replace(self, Self::Nothing) {
            Self::UntilWritten(busy) => {
                frame.map_data(|data| Bytes::from_owner(LastPiece { data, _busy: busy }))
            }
            other => {
                *self = other;
                frame
            }
        }
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, hold: Hold::Nothing }
    }
}

impl Kind {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        match self {
            Self::Known { head, data, trailers } => {
                let data = head.take().or_else(|| take_piece(data)).map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(|trailers| Frame::trailers(*trailers))))
            }
            Self::Stream(frames) => frames.as_mut().poll_next(context),
        }
    }
}

/// hyper takes over a whole frame, however little of it the client wants: the rest stays here.
fn take_piece(data: &mut Option<Bytes>) -> Option<Bytes> {
    match data {
        Some(bytes) if bytes.len() > PIECE_MAX => Some(bytes.split_to(PIECE_MAX)),
        _ => data.take(),
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = self.kind.poll(context);
        if let Hold::UntilTaken(busy) | Hold::UntilWritten(busy) = &mut self.hold {
            if frame.is_ready() {
                busy.awaits_client();
            } else {
                busy.awaits_gateway();
            }
        }
        let is_last = self.is_end_stream();
        let frame = ready!(frame).map(|frame| if is_last { self.hold.hand_over(frame) } else { frame });
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Known { head, data, trailers } => head.is_none() && data.is_none() && trailers.is_none(),
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Known { data, trailers: None, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64)
            }
            Kind::Known { .. } | Kind::Stream(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn data_comes_in_pieces() {
        let data = Bytes::from(vec![7; 2 * PIECE_MAX + 1]);
        let mut body = Body::with_trailers(data.clone(), HeaderMap::new());
        let mut lengths = Vec::new();
        while let Ok(piece) = body.frame().await.unwrap().unwrap().into_data() {
            lengths.push(piece.len());
            assert!(!body.is_end_stream());
        }
        assert_eq!(lengths, [PIECE_MAX, PIECE_MAX, 1]);
        assert!(body.is_end_stream());
    }
}
