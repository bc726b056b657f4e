//! What may be written to a terminal: colours only where one reads along, and never against `NO_COLOR`.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Colored,
}

impl Style {
    /// Colours if `stream` is a terminal and `NO_COLOR` is unset or empty.
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if stream.is_terminal() && !refused { Self::Colored } else { Self::Plain }
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Colored if !text.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

/// Writes `text` to standard output. A reader that has gone (`| head`) is no failure.
///
/// # Errors
/// Whatever else keeps it from being written.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes one sentence to standard error, as the reason of a failure.
///
/// # Errors
/// Whatever keeps it from being written.
pub(crate) fn complain(sentence: &str) -> io::Result<()> {
    writeln!(io::stderr().lock(), "tidegate: {sentence}")
}

/// Writes `text` to standard error as it is.
///
/// # Errors
/// Whatever keeps it from being written.
pub(crate) fn print_error(text: &str) -> io::Result<()> {
    io::stderr().lock().write_all(text.as_bytes())
}
