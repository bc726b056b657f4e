//! What a replica prints goes to this process's log, line by line, in the span of its replica. The pipes are
//! always drained, however much it prints, so that no server ever blocks on its own log; what is beyond the rate
//! or the length of a line is dropped, and the dropped lines are counted.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

const LINE_BYTES_MAX: usize = 8 * 1024;
const READ_BYTES: usize = 8 * 1024;

#[derive(Clone, Copy, Debug)]
enum Source {
    Stdout,
    Stderr,
}

/// Logs both streams until both have ended. `last_words` always holds the last line of stderr.
pub(super) async fn relay(
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    last_words: watch::Sender<Option<Arc<str>>>,
) {
    let (mut out, mut err) = (Stream::new(stdout), Stream::new(stderr));
    let mut log = Log { last_words, budget: Budget::new(Instant::now()) };
    while out.pipe.is_some() || err.pipe.is_some() {
        let (source, text) = tokio::select! {
            text = out.read() => (Source::Stdout, text),
            text = err.read() => (Source::Stderr, text),
            () = sleep_until(log.budget.renewed), if log.budget.dropped > 0 => {
                log.tell_dropped(Instant::now());
                continue;
            }
        };
        for line in text {
            log.line(source, &line);
        }
    }
    log.tell_dropped(Instant::now());
}

/// One of the two streams and the line it is in.
struct Stream<R> {
    pipe: Option<R>,
    buffer: Vec<u8>,
    lines: Lines,
}

impl<R: AsyncRead + Unpin> Stream<R> {
    fn new(pipe: Option<R>) -> Self {
        Self { pipe, buffer: Vec::with_capacity(READ_BYTES), lines: Lines::default() }
    }

    /// The lines that the next read completes; never returns once the stream has ended. Loses nothing when dropped.
    async fn read(&mut self) -> Vec<String> {
        let Some(pipe) = &mut self.pipe else { return pending().await };
        let read = pipe.read_buf(&mut self.buffer).await;
        let mut lines = Vec::new();
        if matches!(read, Ok(1..)) {
            self.lines.push(&self.buffer, &mut lines);
            self.buffer.clear();
        } else {
            self.pipe = None;
            self.lines.end(&mut lines);
        }
        lines
    }
}

/// Cuts bytes into lines. A carriage return ends a line too, or a progress bar would be one line without end.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    cut: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], lines: &mut Vec<String>) {
        let mut pieces = bytes.split(|byte| matches!(byte, b'\n' | b'\r')).peekable();
        while let Some(piece) = pieces.next() {
            let fits = piece.get(..LINE_BYTES_MAX - self.line.len()).unwrap_or(piece);
            self.line.extend_from_slice(fits);
            self.cut |= fits.len() < piece.len();
            if pieces.peek().is_some() {
                self.end(lines);
            }
        }
    }

    fn end(&mut self, lines: &mut Vec<String>) {
        let mut line: String = String::from_utf8_lossy(&self.line).chars().filter(is_printable).collect();
        if std::mem::take(&mut self.cut) {
            line.push('…');
        }
        self.line.clear();
        if !line.trim().is_empty() {
            lines.push(line);
        }
    }
}

/// Escape sequences in a replica's log must not reach the terminal that shows ours.
fn is_printable(character: &char) -> bool {
    !character.is_control() || *character == '\t'
}

struct Log {
    last_words: watch::Sender<Option<Arc<str>>>,
    budget: Budget,
}

impl Log {
    fn line(&mut self, source: Source, line: &str) {
        if matches!(source, Source::Stderr) {
            self.last_words.send_replace(Some(line.into()));
        }
        let now = Instant::now();
        if now >= self.budget.renewed {
            self.tell_dropped(now);
        }
        if !self.budget.spend() {
            return;
        }
        match source {
            Source::Stdout => info!(target: "replica", "{line}"),
            Source::Stderr => warn!(target: "replica", "{line}"),
        }
    }

    fn tell_dropped(&mut self, now: Instant) {
        let dropped = self.budget.renew(now);
        if dropped > 0 {
            warn!(target: "replica", dropped, "lines were dropped: it prints too much");
        }
    }
}

/// Lines that may still be logged this second.
#[derive(Debug)]
struct Budget {
    left: u32,
    dropped: u64,
    renewed: Instant,
}

impl Budget {
    const LINES_PER_SECOND: u32 = 200;

    fn new(now: Instant) -> Self {
        Self { left: Self::LINES_PER_SECOND, dropped: 0, renewed: now + Duration::from_secs(1) }
    }

    fn spend(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => {
                self.dropped += 1;
                return false;
            }
        }
        true
    }

    /// Starts another second, and tells how many lines the last one dropped.
    fn renew(&mut self, now: Instant) -> u64 {
        std::mem::replace(self, Self::new(now)).dropped
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut lines) = (Lines::default(), Vec::new());
        for chunk in chunks {
            splitter.push(chunk, &mut lines);
        }
        splitter.end(&mut lines);
        lines
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(
            lines(&[b"on", b"e\ntwo\r", b"\n\n 3%\r 4%", b"\rend"]),
            ["one", "two", " 3%", " 4%", "end"]
        );
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_is_whole() {
        let long = [b'x'; 20_000];
        let found = lines(&[&long[..5_000], &long, b"\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].len(), LINE_BYTES_MAX + '…'.len_utf8());
        assert_eq!(found[1], "next");
    }

    #[test]
    fn a_line_of_just_the_longest_length_is_not_cut() {
        let mut line = vec![b'x'; LINE_BYTES_MAX];
        line.push(b'\n');
        assert_eq!(lines(&[&line])[0].len(), LINE_BYTES_MAX);
    }

    #[test]
    fn escapes_and_bad_utf8_do_no_harm() {
        assert_eq!(lines(&[b"\x1b[31mred\x07\t\xff\n"]), ["[31mred\t\u{fffd}"]);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_beyond_the_rate_are_dropped_and_counted_until_the_next_second() {
        let mut budget = Budget::new(Instant::now());
        let logged = (0..1_000).filter(|_| budget.spend()).count();
        assert_eq!(logged, 200);
        assert_eq!(budget.renew(Instant::now()), 800);
        assert!(budget.spend());
    }

    #[tokio::test(start_paused = true)]
    async fn both_streams_are_drained_to_their_ends_and_the_last_words_kept() {
        let (mut stdout, out) = tokio::io::duplex(64);
        let (mut stderr, err) = tokio::io::duplex(64);
        let (words, last_words) = watch::channel(None);
        let relay = tokio::spawn(relay(Some(out), Some(err), words));
        let flood = vec![b'x'; 1_000_000];
        stderr.write_all(b"first\nTraceback\nValueError: no such file").await.unwrap();
        stdout.write_all(&flood).await.unwrap();
        drop((stdout, stderr));
        relay.await.unwrap();
        assert_eq!(last_words.borrow().as_deref(), Some("ValueError: no such file"));
    }
}
