//! The lines of a record from its files, the older one first.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use autoscaler::record::{Header, Line, LineError, begins_record};

use crate::serve::record::before;

/// Longest line that is read: far above any that is written.
const LINE_MOST: u64 = 64 << 20;
/// Longest first line that is looked at.
const FIRST_MOST: u64 = 4096;

/// One after the other.
pub(super) enum Found {
    Line(Line),
    /// A line that cannot be read: a process was killed while it wrote, or the file is damaged.
    Torn,
    /// A file that stood between these two is gone.
    Lost,
}

/// What there is to know of a record before it is replayed.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The models, each with the time from which there is something of it.
    pub(super) models: BTreeMap<Arc<str>, Duration>,
    pub(super) begins: Duration,
    /// Who has written it.
    pub(super) programs: BTreeSet<String>,
}

impl Survey {
    pub(super) fn of(path: &Path) -> anyhow::Result<Self> {
        let mut survey = Self::default();
        // Every run begins with its policy, and every file of a run comes to have one.
        each(path, |text, _| {
            if text.starts_with("{\"policy\"")
                && let Ok(Line::Policy(line)) = Line::parse(text)
            {
                survey.models.entry(line.run.model).or_insert(line.at);
            } else if text.starts_with("{\"header\"")
                && let Line::Header(header) = Line::parse(text)?
            {
                survey.programs.insert(header.program);
            }
            Ok(())
        })?;
        survey.begins = survey.models.values().min().copied().unwrap_or_default();
        ensure!(!survey.models.is_empty(), "{} has no decision in it yet", path.display());
        Ok(survey)
    }
}

/// Whether the file is a record, as far as its beginning tells.
pub(crate) fn is_record(path: &Path) -> bool {
    first_line(path).is_some_and(|first| begins_record(&first))
}

fn first_line(path: &Path) -> Option<String> {
    let mut first = String::new();
    BufReader::new(File::open(path).ok()?.take(FIRST_MOST)).read_line(&mut first).ok()?;
    Some(first)
}

/// Reads every line.
///
/// # Errors
/// What is there is no record, is one of another form, or `take` fails.
pub(super) fn read(path: &Path, mut take: impl FnMut(Found) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut last: Option<Header> = None;
    each(path, |text, place| match Line::parse(text) {
        Ok(Line::Header(header)) => {
            let before = last.replace(header.clone()).filter(|before| before.session == header.session);
            match before {
                Some(before) if before.part + 1 == header.part => Ok(()),
                Some(_) => take(Found::Lost),
                None => take(Found::Line(Line::Header(header))),
            }
        }
        Ok(line) => take(Found::Line(line)),
        Err(LineError::Unreadable(_)) => take(Found::Torn),
        Err(error @ LineError::Version { .. }) => bail!("{place}: {error}"),
    })
}

/// Hands out the text of every line that is not empty, with its place.
fn each(path: &Path, mut take: impl FnMut(&str, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // Both are opened before one is read: the writer may turn to a new file meanwhile.
    let newest = open(path)?;
    let older = before(path);
    // One of another form was put there by a program that does not read it either.
    let older = first_line(&older)
        .is_some_and(|first| matches!(Line::parse(&first), Ok(Line::Header(_))))
        .then_some(older);
    let older = older.and_then(|older| open(&older).ok());
    for (path, file) in older.into_iter().chain([newest]) {
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut reader).take(LINE_MOST).read_until(b'\n', &mut line);
            let read = read.with_context(|| format!("cannot read {}", path.display()))?;
            if read == 0 {
                break;
            }
            let place = format!("{}:{number}", path.display());
            ensure!((read as u64) < LINE_MOST, "{place}: a line without an end: this is no record");
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            ensure!(number > 1 || begins_record(text), "{} is no record of decisions", path.display());
            if !text.is_empty() {
                take(text, &place)?;
            }
        }
    }
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<(PathBuf, File)> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok((path.to_owned(), file))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("tidegate-lines-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn file(&self) -> PathBuf {
            self.0.join("record.jsonl")
        }

        fn write(&self, older: &str, newest: &str) {
            fs::write(before(&self.file()), older).unwrap();
            fs::write(self.file(), newest).unwrap();
        }

        /// What is found, as letters: lines, torn ones, and where some are lost.
        fn found(&self) -> anyhow::Result<String> {
            let mut letters = String::new();
            read(&self.file(), |found| {
                letters.push(match found {
                    Found::Line(Line::Header(_)) => 'H',
                    Found::Line(_) => 'g',
                    Found::Torn => 'T',
                    Found::Lost => 'L',
                });
                Ok(())
            })?;
            Ok(letters)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn header(session: u64, part: u64) -> String {
        let program = "tidegate 0".to_owned();
        Line::Header(Header { version: 1, program, session, part, at: Duration::ZERO }).text() + "\n"
    }

    const GAP: &str = "{\"gap\":{\"run\":{\"model\":\"m\",\"number\":0},\"ticks\":1}}\n";

    #[test]
    fn the_older_file_comes_first_and_a_session_goes_on_where_no_file_between_is_gone() {
        let folder = Folder::new("order");
        folder.write(&(header(1, 0) + GAP), &(header(1, 1) + GAP + GAP));
        assert_eq!(folder.found().unwrap(), "Hggg");
        folder.write(&(header(1, 0) + GAP), &(header(1, 2) + GAP));
        assert_eq!(folder.found().unwrap(), "HgLg", "the one between is gone");
        folder.write(&(header(1, 0) + GAP), &(header(2, 0) + GAP));
        assert_eq!(folder.found().unwrap(), "HgHg", "another process");
    }

    #[test]
    fn torn_lines_are_told_and_empty_ones_are_nothing() {
        let folder = Folder::new("torn");
        fs::write(folder.file(), header(1, 0) + "\n" + GAP + "{\"tick\":{\n" + GAP.trim() + &GAP[..9])
            .unwrap();
        assert_eq!(folder.found().unwrap(), "HgTT");
    }

    #[test]
    fn a_file_beside_a_record_that_is_none_or_of_another_form_is_left_out() {
        let folder = Folder::new("beside");
        let newer = header(1, 0).replace("\"version\":1", "\"version\":2");
        for older in ["something else\n", newer.as_str(), ""] {
            folder.write(older, &(header(1, 4) + GAP));
            assert_eq!(folder.found().unwrap(), "Hg", "{older:?}");
        }
        folder.write("", &newer);
        let error = folder.found().unwrap_err().to_string();
        assert!(
            error.ends_with("record.jsonl:1: the record has form 2, not 1; tidegate 0 has written it"),
            "{error}"
        );
        folder.write("", "t,tokens\n1,2\n");
        assert!(folder.found().unwrap_err().to_string().ends_with("is no record of decisions"));
    }
}
