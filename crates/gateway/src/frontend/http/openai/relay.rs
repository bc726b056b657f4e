//! A streamed answer on its way from the engine to the client: bytes as they came, time limits, and an end that the
//! client can tell from a good one.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use convert::openai::{self, Broken, DONE, Dialect, Scanner, UsageFrame};
use futures_util::{Stream, stream::BoxStream};
use http_body::Frame;
use pipeline::{CallError, chat::Run};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    frontend::call::{Call, Generated},
    status::{Failure, Situation},
    upstream::of_event,
};

/// How long the engine may take to end an answer of which the last event has come. The connection can be used again
/// only after that.
const END_PATIENCE: Duration = Duration::from_millis(200);

/// On which terms an answer is handed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) dialect: Dialect,
    pub(super) usage: UsageFrame,
    /// When all of it must have come.
    pub(super) ends: Instant,
    /// Longest silence of the engine.
    pub(super) between: Duration,
}

/// One streamed answer. Dropping it closes the connection to the engine, which stops generating.
pub(super) struct Relay {
    /// Recorded when the answer ends; if it is dropped before, its client has left.
    call: Call,
    run: Option<Box<Run>>,
    rest: BoxStream<'static, Result<Bytes, CallError>>,
    scanner: Scanner,
    terms: Terms,
    /// What is to be handed on.
    ready: VecDeque<Bytes>,
    state: State,
    usage: Option<openai::Usage>,
    last_piece: Instant,
    timer: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The last event has come; the end of the body is waited for.
    Done,
    Ended,
}

impl Relay {
    pub(super) fn new(
        call: Call,
        run: Option<Box<Run>>,
        rest: BoxStream<'static, Result<Bytes, CallError>>,
        terms: Terms,
    ) -> Self {
        let now = Instant::now();
        Self {
            call,
            run,
            rest,
            scanner: Scanner::new(terms.dialect, terms.usage),
            terms,
            ready: VecDeque::with_capacity(2),
            state: State::Open,
            usage: None,
            last_piece: now,
            timer: Box::pin(sleep_until(terms.ends.min(now + terms.between))),
        }
    }

    pub(super) fn begin_with(mut self, first: Bytes) -> Self {
        self.take(first);
        self
    }

    /// A piece has come from the engine.
    fn take(&mut self, piece: Bytes) {
        let now = Instant::now();
        self.last_piece = now;
        if self.state != State::Open {
            // There is nothing after the last event.
            return;
        }
        let ready = &mut self.ready;
        let facts = self.scanner.push(piece, |bytes| ready.push_back(bytes));
        if let Some(run) = &mut self.run {
            run.received(facts.content_frames, now);
        }
        self.usage = facts.usage.or(self.usage);
        if let Some(broken) = facts.broken {
            self.break_off(&of_broken(broken));
        } else if facts.done {
            self.complete();
        }
    }

    /// The engine's body has ended.
    fn finish(&mut self) {
        if self.state == State::Open {
            let fresh = Scanner::new(self.terms.dialect, self.terms.usage);
            let ready = &mut self.ready;
            let facts = std::mem::replace(&mut self.scanner, fresh).finish(|bytes| ready.push_back(bytes));
            if facts.done {
                self.complete();
            } else {
                self.break_off(&of_broken(facts.broken.unwrap_or(Broken::Cut)));
            }
        }
        self.state = State::Ended;
    }

    /// The last event was there.
    fn complete(&mut self) {
        self.state = State::Done;
        self.timer.as_mut().reset(Instant::now() + END_PATIENCE);
        self.tell_usage();
        if let Some(run) = self.run.take() {
            run.completed();
        }
        self.call.record(None);
    }

    /// The engine is to blame, or says that the client is.
    fn break_off(&mut self, error: &CallError) {
        self.end_early(&Failure::from(error.clone()), |run| run.broke(error));
    }

    fn time_is_over(&mut self) {
        self.end_early(&Failure::deadline_exceeded("before the answer was complete"), |run| run.timed_out());
    }

    fn engine_is_silent(&mut self) {
        let sentence = format!(
            "the model server sent nothing for {:.1} s (deadline.betweenTokens)",
            self.terms.between.as_secs_f64()
        );
        self.end_early(&Failure::new(Situation::DeadlineExceeded, sentence), |run| run.fell_silent());
    }

    /// The client is not given the whole answer: last words to it, and to the pipeline.
    fn end_early(&mut self, failure: &Failure, end: impl FnOnce(Run)) {
        self.tell_usage();
        if let Some(run) = self.run.take() {
            end(*run);
        }
        self.state = State::Ended;
        self.ready.push_back(openai::error_event(self.terms.dialect, &failure.in_openai_words()));
        if self.terms.dialect == Dialect::Completions {
            self.ready.push_back(Bytes::from_static(DONE));
        }
        self.call.record(Some(failure.situation));
        // Closes the connection to the engine, which need not go on.
        self.rest = Box::pin(futures_util::stream::empty());
    }

    fn tell_usage(&mut self) {
        let usage = self.usage.map(super::told);
        let ttft = self.run.as_ref().and_then(|run| run.ttft());
        if let (Some(run), Some(usage)) = (&mut self.run, usage) {
            run.used(usage);
        }
        self.call.generated(Generated { usage, ttft });
    }

    /// Nothing came. Looks at the time, which moves on with every piece without the timer being set anew.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            let silent_at = self.last_piece + self.terms.between;
            match self.state {
                State::Done | State::Ended => self.state = State::Ended,
                State::Open if now >= self.terms.ends => self.time_is_over(),
                State::Open if now >= silent_at => self.engine_is_silent(),
                State::Open => {
                    self.timer.as_mut().reset(silent_at.min(self.terms.ends));
                    continue;
                }
            }
            return Poll::Ready(());
        }
    }
}

impl Stream for Relay {
    type Item = Frame<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Frame::data(piece)));
            }
            if self.state == State::Ended {
                return Poll::Ready(None);
            }
            match self.rest.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(piece))) => self.take(piece),
                Poll::Ready(Some(Err(_))) if self.state == State::Done => self.state = State::Ended,
                Poll::Ready(Some(Err(error))) => self.break_off(&error),
                Poll::Ready(None) => self.finish(),
                Poll::Pending => ready!(self.wait(context)),
            }
        }
    }
}

fn of_broken(broken: Broken) -> CallError {
    match broken {
        Broken::Cut => CallError::Reset,
        Broken::NotEvents | Broken::TooLarge | Broken::NotText => CallError::BadResponse,
        Broken::Failed(error) => of_event(*error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are as many of these as streams.
    #[test]
    fn a_relay_is_small() {
        let bytes = size_of::<Relay>();
        assert!(bytes <= 512, "{bytes}");
    }
}
