//! Server-sent events, read as their bytes come: enough of the format for token streams, with a bound on each event.
//!
//! Lines end in a line feed, with or without a carriage return before it; a lone carriage return ends none, as no
//! inference server writes that.

use memchr::memchr;

/// Bytes of one event; more is no event stream.
const EVENT_MAX: usize = 1 << 20;

/// The data of an event that says that the answer is complete.
pub(crate) const DONE: &str = "[DONE]";

/// Why a stream cannot be read on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SseError {
    #[error("an event is larger than {EVENT_MAX} bytes")]
    TooLarge,
    #[error("an event is not UTF-8")]
    NotText,
}

/// One event. Its identifier and retry time are of no use here and left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The type; empty for an ordinary message.
    pub(crate) name: String,
    /// The data lines, joined by line feeds.
    pub(crate) data: String,
}

/// Cuts a stream of bytes into events, wherever its pieces end.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    /// Bytes that came and belong to no complete line yet.
    rest: Vec<u8>,
    event: Event,
    /// Whether the event under way has a data line; one without is not dispatched.
    has_data: bool,
}

impl SseReader {
    /// Takes the next piece of the stream and gives every event that it completes to `each`, until that fails.
    pub(crate) fn feed<E: From<SseError>>(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(Event) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = piece;
        while let Some(end) = memchr(b'\n', piece) {
            let (line, after) = piece.split_at(end);
            piece = after.get(1..).unwrap_or_default();
            let complete = if self.rest.is_empty() {
                self.line(line)?
            } else {
                self.keep(line)?;
                let line = std::mem::take(&mut self.rest);
                self.line(&line)?
            };
            if let Some(event) = complete {
                each(event)?;
            }
        }
        Ok(self.keep(piece)?)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if self.rest.len() + bytes.len() > EVENT_MAX {
            return Err(SseError::TooLarge);
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// One line without its line feed; gives the event that it ends.
    fn line(&mut self, line: &[u8]) -> Result<Option<Event>, SseError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return Ok(std::mem::take(&mut self.has_data).then_some(event));
        }
        let line = std::str::from_utf8(line).map_err(|_| SseError::NotText)?;
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => self.append(value)?,
            "event" => value.clone_into(&mut self.event.name),
            // A comment has an empty field; identifiers and retry times are for clients that connect again.
            _ => {}
        }
        Ok(None)
    }

    fn append(&mut self, value: &str) -> Result<(), SseError> {
        let data = &mut self.event.data;
        if data.len() + value.len() >= EVENT_MAX {
            return Err(SseError::TooLarge);
        }
        if std::mem::replace(&mut self.has_data, true) {
            data.push('\n');
        }
        data.push_str(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a stream that comes in pieces of `size` bytes.
    fn events(stream: &[u8], size: usize) -> Result<Vec<Event>, SseError> {
        let (mut reader, mut events) = (SseReader::default(), Vec::new());
        for piece in stream.chunks(size) {
            reader.feed(piece, |event| {
                events.push(event);
                Ok::<_, SseError>(())
            })?;
        }
        Ok(events)
    }

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_the_same_wherever_the_pieces_end() {
        let stream = "data: {\"a\":1}\n\n: a comment\n\r\nevent: error\r\ndata:x\r\ndata: y\r\n\r\nid: 7\n\ndata: žluť\n\ndata: [DONE]\n\n";
        let expected = [event("", "{\"a\":1}"), event("error", "x\ny"), event("", "žluť"), event("", DONE)];
        for size in 1..stream.len() {
            assert_eq!(events(stream.as_bytes(), size).unwrap(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn an_event_that_its_stream_does_not_end_is_none() {
        assert_eq!(events(b"data: 1\n\ndata: 2\n", 100).unwrap(), [event("", "1")]);
    }

    #[test]
    fn an_empty_data_line_is_an_event_and_a_bare_name_is_not() {
        assert_eq!(events(b"data\n\nevent: ping\n\ndata:\n\n", 4).unwrap(), [event("", ""), event("", "")]);
    }

    #[test]
    fn an_event_without_an_end_is_given_up_and_so_is_what_is_not_text() {
        let endless = [b"data: ".to_vec(), vec![b'x'; EVENT_MAX]].concat();
        assert_eq!(events(&endless, 1 << 16), Err(SseError::TooLarge));
        let many_lines = b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(EVENT_MAX / 32);
        assert_eq!(events(&many_lines, 1 << 16), Err(SseError::TooLarge));
        assert_eq!(events(b"data: \xff\n\n", 10), Err(SseError::NotText));
    }
}
