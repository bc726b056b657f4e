//! The body of an answer: whole, or an event for every token as its time comes.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::{
    answer::Answer,
    engine::Sequence,
    error::Error,
    fail::{Fault, Planned},
    wire::{DONE, Script, Usage},
};

/// What no client takes for an answer.
pub(super) const NONSENSE: Bytes = Bytes::from_static(b"<html>\"choices\": [{\"delta\": {{ nonsense\n\n");

/// The connection is to break off here, on demand.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection breaks off on demand")]
pub(crate) struct BrokenOff;

/// A body of an answer.
pub(crate) enum Answering {
    Whole(Option<Bytes>),
    Stream(Box<Stream>),
}

impl Body for Answering {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A stream of events under way.
pub(crate) struct Stream {
    sequence: Sequence,
    script: Script,
    answer: Answer,
    prompt_tokens: usize,
    fault: Option<Planned>,
    ready: VecDeque<Bytes>,
    then: Then,
}

/// What follows the events that are ready.
#[derive(Clone, Copy)]
enum Then {
    Token,
    End,
    /// Breaks off once what was written is on its way.
    Flush,
    BreakOff,
    Silence,
}

impl Stream {
    pub(super) fn new(
        sequence: Sequence,
        mut script: Script,
        answer: Answer,
        prompt_tokens: usize,
        fault: Option<Planned>,
    ) -> Self {
        let ready = script.early().into();
        Self { sequence, script, answer, prompt_tokens, fault, ready, then: Then::Token }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            match self.then {
                Then::Token if self.is_to_fail() => {
                    // Also what fails before its first token has cost the engine its prefill.
                    ready!(self.sequence.poll_seat(cx));
                    self.fail();
                }
                Then::Token => match ready!(self.sequence.poll_token(cx)) {
                    Some(token) => self.say(token),
                    None => self.close(),
                },
                Then::End => return Poll::Ready(None),
                Then::Flush => {
                    self.then = Then::BreakOff;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Then::BreakOff => return Poll::Ready(Some(Err(BrokenOff))),
                // The one who waits for this is woken by its connection.
                Then::Silence => return Poll::Pending,
            }
        }
    }

    fn say(&mut self, token: usize) {
        if token == 0 {
            self.ready.extend(self.script.opening());
        }
        self.ready.push_back(self.script.token(&self.answer, token));
    }

    fn close(&mut self) {
        let usage = Usage {
            prompt: self.prompt_tokens,
            cached: self.sequence.cached(),
            completion: self.answer.tokens(),
        };
        self.ready.extend(self.script.closing(&self.answer, usage));
        let has_done = !self.fault.is_some_and(|planned| planned.fault == Fault::NoDone);
        self.ready.extend((self.script.has_done() && has_done).then_some(DONE));
        self.sequence.finish(self.answer.pieces());
        self.then = Then::End;
    }

    fn is_to_fail(&self) -> bool {
        self.fault.is_some_and(|Planned { fault, after }| {
            let shows = !matches!(fault, Fault::SlowFirst | Fault::NoDone | Fault::Busy);
            shows && self.sequence.generated() >= after.min(self.answer.tokens())
        })
    }

    fn fail(&mut self) {
        self.then = match self.fault.map(|planned| planned.fault) {
            // The slot stays taken: that is what makes a stall worse than an end.
            Some(Fault::Stall) => Then::Silence,
            Some(Fault::Reset) => Then::Flush,
            Some(Fault::Nonsense) => {
                self.ready.push_back(NONSENSE);
                Then::End
            }
            Some(Fault::Error) => {
                self.ready.push_back(format!("data: {}\n\n", Error::OnDemand.envelope()).into());
                self.ready.push_back(DONE);
                Then::End
            }
            _ => Then::End,
        };
        if !matches!(self.then, Then::Silence) {
            self.sequence.fail();
        }
    }
}
