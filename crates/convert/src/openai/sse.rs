//! Watching an engine's stream of server-sent events on its way to the client.
//!
//! Frames go on as they came, without a copy where they come whole. A frame whose end has not come yet is held
//! back, since only a whole one can be told from one that must not go on: the usage that nobody asked for, and what
//! an engine says of an error. A line ends in `\n` or `\r\n`.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use super::{ErrorText, Usage, failure::DONE};

mod frame;

use frame::Frame;

/// Largest frame. Engines send a token or a few in each; the last event of a response repeats all of its text.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// What a stream may start with.
const FIRST_FIELDS: [&[u8]; 6] = [b"data:", b"event:", b":", b"id:", b"retry:", b"error:"];

/// How the events of an endpoint are worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Of `/v1/chat/completions` and `/v1/completions`.
    Completions,
    /// Of `/v1/responses`.
    Responses,
}

/// What becomes of the frame that tells the usage and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageFrame {
    /// The client did not ask for it.
    Strip,
    Keep,
}

/// What the frames that ended in one chunk told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Frames with something for the user to see: text, reasoning, a part of a tool call.
    pub content_frames: u32,
    /// Whether these are the first of the stream.
    pub first_content: bool,
    /// The newest usage.
    pub usage: Option<Usage>,
    /// Choices that told why they ended.
    pub finished: u32,
    /// `[DONE]`, or the event that ends a response.
    pub done: bool,
    /// Nothing goes on from here.
    pub broken: Option<Broken>,
}

/// Why a stream cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("the answer is not a stream of events")]
    NotEvents,
    #[error("an event is larger than {FRAME_BYTES_MAX} bytes")]
    TooLarge,
    #[error("an event is not UTF-8")]
    NotText,
    #[error("the stream ended within an event")]
    Cut,
    /// What it said stays here: it may be of the engine's insides, which are not for clients.
    #[error("the engine told of an error")]
    Failed(Box<ErrorText>),
}

/// A stream as it passes.
#[derive(Debug)]
pub struct Scanner {
    dialect: Dialect,
    usage: UsageFrame,
    /// A frame without its end.
    held: BytesMut,
    /// Whether what came so far has shown to be events.
    started: bool,
    has_content: bool,
    broken: Option<Broken>,
}

enum Way {
    On,
    Off,
}

impl Scanner {
    #[must_use]
    pub fn new(dialect: Dialect, usage: UsageFrame) -> Self {
        Self { dialect, usage, held: BytesMut::new(), started: false, has_content: false, broken: None }
    }

    /// Takes a chunk as it came and gives on, in order, what the client is to get.
    pub fn push(&mut self, chunk: Bytes, mut forward: impl FnMut(Bytes)) -> Facts {
        let mut facts = Facts::default();
        if self.broken.is_none()
            && let Err(broken) = self.scan(chunk, &mut facts, &mut forward)
        {
            self.fail(broken);
        }
        self.tell(facts)
    }

    /// Ends the stream. A `[DONE]` may lack its last line ends; any other frame must be whole.
    pub fn finish(mut self, mut forward: impl FnMut(Bytes)) -> Facts {
        let mut facts = Facts::default();
        match self.held.trim_ascii() {
            _ if self.broken.is_some() => {}
            b"" => {}
            b"data: [DONE]" | b"data:[DONE]" => {
                facts.done = true;
                forward(Bytes::from_static(DONE));
            }
            _ => self.fail(Broken::Cut),
        }
        self.tell(facts)
    }

    fn fail(&mut self, broken: Broken) {
        self.broken = Some(broken);
        self.held = BytesMut::new();
    }

    fn tell(&mut self, mut facts: Facts) -> Facts {
        facts.first_content = facts.content_frames > 0 && !self.has_content;
        self.has_content |= facts.first_content;
        facts.broken.clone_from(&self.broken);
        facts
    }

    fn scan(
        &mut self,
        chunk: Bytes,
        facts: &mut Facts,
        forward: &mut impl FnMut(Bytes),
    ) -> Result<(), Broken> {
        if self.held.is_empty() {
            return self.scan_frames(chunk, facts, forward);
        }
        let used = self.complete(&chunk)?;
        if !is_whole(&self.held) {
            return Ok(());
        }
        let frame = self.held.split().freeze();
        if let Way::On = self.pass(&frame, facts)? {
            forward(frame);
        }
        self.scan_frames(chunk.slice(used..), facts, forward)
    }

    /// Adds to the frame that is held until it is whole or the chunk is used up; gives the bytes used.
    fn complete(&mut self, chunk: &[u8]) -> Result<usize, Broken> {
        let mut used = 0;
        while let Some(rest) = chunk.get(used..).filter(|rest| !rest.is_empty()) {
            let line = memchr(b'\n', rest).map_or(rest.len(), |newline| newline + 1);
            self.hold(rest.get(..line).unwrap_or_default())?;
            used += line;
            if is_whole(&self.held) {
                break;
            }
        }
        Ok(used)
    }

    fn hold(&mut self, part: &[u8]) -> Result<(), Broken> {
        self.held.extend_from_slice(part);
        if !self.started {
            self.started = starts_events(&self.held)?;
        }
        if self.held.len() > FRAME_BYTES_MAX { Err(Broken::TooLarge) } else { Ok(()) }
    }

    /// Gives on whole frames in as few pieces as can be, and holds what is left.
    fn scan_frames(
        &mut self,
        chunk: Bytes,
        facts: &mut Facts,
        forward: &mut impl FnMut(Bytes),
    ) -> Result<(), Broken> {
        let (mut start, mut at) = (0, 0);
        let outcome = loop {
            let rest = chunk.get(at..).unwrap_or_default();
            let Some(frame) = rest.get(..frame_length(rest)).filter(|frame| !frame.is_empty()) else {
                break self.hold(rest);
            };
            match self.pass(frame, facts) {
                Ok(Way::On) => at += frame.len(),
                Ok(Way::Off) => {
                    give(&chunk, start..at, forward);
                    at += frame.len();
                    start = at;
                }
                Err(broken) => break Err(broken),
            }
        };
        give(&chunk, start..at, forward);
        outcome
    }

    /// Looks into a whole frame.
    fn pass(&mut self, frame: &[u8], facts: &mut Facts) -> Result<Way, Broken> {
        if !self.started {
            self.started = starts_events(frame)?;
        }
        if frame.len() > FRAME_BYTES_MAX {
            return Err(Broken::TooLarge);
        }
        let text = str::from_utf8(frame).map_err(|_| Broken::NotText)?;
        let mut frame = Frame::read(self.dialect, text);
        let strip = frame.is_usage_only && self.usage == UsageFrame::Strip;
        let error = frame.error.take();
        facts.add(&frame);
        match error {
            Some(error) => Err(Broken::Failed(Box::new(error))),
            None if strip => Ok(Way::Off),
            None => Ok(Way::On),
        }
    }
}

impl Facts {
    fn add(&mut self, frame: &Frame) {
        self.content_frames += u32::from(frame.has_content);
        self.finished += frame.finished;
        self.done |= frame.is_last;
        self.usage = frame.usage.or(self.usage);
    }
}

fn give(chunk: &Bytes, part: std::ops::Range<usize>, forward: &mut impl FnMut(Bytes)) {
    if !part.is_empty() {
        forward(chunk.slice(part));
    }
}

/// Bytes of the frame at the front, its blank line included; 0 if it has not ended.
fn frame_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(newline) = memchr(b'\n', bytes.get(at..).unwrap_or_default()) {
        at += newline + 1;
        match bytes.get(at..) {
            Some([b'\n', ..]) => return at + 1,
            Some([b'\r', b'\n', ..]) => return at + 2,
            _ => {}
        }
    }
    0
}

/// Whether a frame that came line by line has its blank line.
fn is_whole(held: &[u8]) -> bool {
    held.ends_with(b"\n\n") || held.ends_with(b"\n\r\n")
}

/// Whether a stream starts as one of events does; false while too little of it is there to tell.
fn starts_events(bytes: &[u8]) -> Result<bool, Broken> {
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = bytes.get(blank..).unwrap_or_default();
    if FIRST_FIELDS.iter().any(|field| bytes.starts_with(field)) {
        return Ok(true);
    }
    if FIRST_FIELDS.iter().any(|field| field.starts_with(bytes)) { Ok(false) } else { Err(Broken::NotEvents) }
}

#[cfg(test)]
mod tests;
