//! Reading the file: text of a bounded size, or a sentence on why not.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::{
    report::{Finding, Report, Severity},
    yaml::Span,
};

const SIZE_MAX: u64 = 1 << 20;

/// A configuration text and the name it goes by in findings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl Source {
    /// Reads a file; `-` is standard input.
    ///
    /// # Errors
    /// A report with one finding: not there, not a file, larger than 1 MiB, or not UTF-8.
    pub(crate) fn read(path: &Path) -> Result<Self, Report> {
        if path == Path::new("-") {
            return Self::take("standard input".to_owned(), io::stdin().lock());
        }
        let name = path.display().to_string();
        let refuse = |why: &str, hint: &str| Self::refused(&name, why, hint);
        // Asked before opening: opening a FIFO would wait for its writer.
        let kind = match path.metadata() {
            Ok(metadata) => metadata.file_type(),
            Err(error) => return Err(refuse(&sentence(&error), "")),
        };
        if kind.is_dir() {
            return Err(refuse("is a directory", "name a file in it"));
        }
        if !kind.is_file() {
            return Err(refuse("is not a regular file", "write \"-\" to read standard input"));
        }
        match File::open(path) {
            Ok(file) => Self::take(name, file),
            Err(error) => Err(refuse(&sentence(&error), "")),
        }
    }

    fn take(name: String, reader: impl Read) -> Result<Self, Report> {
        let mut bytes = Vec::new();
        if let Err(error) = reader.take(SIZE_MAX + 1).read_to_end(&mut bytes) {
            return Err(Self::refused(&name, &sentence(&error), ""));
        }
        if bytes.len() as u64 > SIZE_MAX {
            return Err(Self::refused(&name, "is larger than 1 MiB", "is this the right file?"));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text }),
            Err(error) => Err(Self::not_utf8(name, &error)),
        }
    }

    fn refused(name: &str, why: &str, hint: &str) -> Report {
        let source = Self { name: name.to_owned(), text: String::new() };
        Report::new(source, vec![Finding::file(None, why, hint)])
    }

    fn not_utf8(name: String, error: &std::string::FromUtf8Error) -> Report {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let before = String::from_utf8_lossy(valid);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let finding =
            Finding::file(Some(Span { line, column, width: 1 }), "not UTF-8 text", "save the file as UTF-8");
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        Report::new(Self { name, text }, vec![finding])
    }
}

impl Finding {
    /// An error about the file as a whole.
    pub(super) fn file(span: Option<Span>, message: &str, hint: &str) -> Self {
        let (path, message, hint) = (String::new(), message.to_owned(), hint.to_owned());
        Self { severity: Severity::Error, path, span, message, hint }
    }
}

fn sentence(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "may not be read by this user".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(reader: impl Read) -> String {
        Source::take("t.yaml".to_owned(), reader).unwrap_err().to_string()
    }

    #[test]
    fn reading_stops_at_the_limit() {
        assert!(refusal(io::repeat(b'#')).starts_with("✗ t.yaml  is larger than 1 MiB"));
        assert!(Source::take("t.yaml".to_owned(), io::repeat(b'#').take(SIZE_MAX)).is_ok());
    }

    #[test]
    fn the_first_byte_that_is_not_utf_8_is_located() {
        let said = refusal(&b"listen: x\n# caf\xe9\n"[..]);
        assert!(said.starts_with("✗ t.yaml:2:6  not UTF-8 text"), "{said}");
    }
}
