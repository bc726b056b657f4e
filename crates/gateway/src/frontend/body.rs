//! Bodies of responses: one type for all of them, so that the common ones are not boxed.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::listen::activity::Busy;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response body.
#[derive(Debug)]
pub(crate) struct Body {
    kind: Kind,
    /// Keeps the connection from being taken for idle until the last byte is written.
    _busy: Option<Busy>,
}

enum Kind {
    /// Whatever is left of data, then of trailers.
    Known {
        head: Option<Bytes>,
        data: Option<Bytes>,
        trailers: Option<Box<HeaderMap>>,
    },
    /// Frames as they come. Dropped with the body, which cancels what makes them.
    Stream(Pin<Box<dyn Stream<Item = Frame<Bytes>> + Send>>),
    Tonic(tonic::body::Body),
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known { .. } => "Known",
            Self::Stream(_) => "Stream",
            Self::Tonic(_) => "Tonic",
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

    pub(crate) fn held_by(self, busy: Busy) -> Self {
        Self { _busy: Some(busy), ..self }
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, _busy: None }
    }
}

impl From<tonic::body::Body> for Body {
    fn from(body: tonic::body::Body) -> Self {
        Kind::Tonic(body).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Known { head, data, trailers } => {
                let data = head.take().or_else(|| data.take()).map(Frame::data);
                Poll::Ready(data.or_else(|| trailers.take().map(|t| Frame::trailers(*t))).map(Ok))
            }
            Kind::Stream(frames) => {
                let frame = ready!(frames.as_mut().poll_next(context));
                Poll::Ready(frame.map(Ok))
            }
            Kind::Tonic(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Known { head, data, trailers } => head.is_none() && data.is_none() && trailers.is_none(),
            Kind::Stream(_) => false,
            Kind::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Known { data, trailers: None, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, Bytes::len) as u64)
            }
            Kind::Known { .. } | Kind::Stream(_) => SizeHint::default(),
            Kind::Tonic(body) => body.size_hint(),
        }
    }
}
