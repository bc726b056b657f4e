//! Two files of bounded size: the one that is written, and the one before it, whose name has `.1` at its end.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use autoscaler::record::{Header, Line, begins_record};

/// Longest first line that is looked at.
const FIRST_MOST: u64 = 4096;
/// The last words of replicas that crashed are nobody else's business.
const MODE: u32 = 0o600;

#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    /// Most bytes of one file.
    most: u64,
    header: Header,
    file: File,
    bytes: u64,
}

/// Where lines went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Behind the lines before them.
    InPlace,
    /// To a new file, where nothing is known of what came before.
    Anew,
}

impl Files {
    /// Goes on with the record at `path`, or begins one; both files have at most `most` bytes together.
    ///
    /// # Errors
    /// It cannot be opened or written, another process writes it, or what is there is no record.
    pub(super) fn open(path: &Path, most: u64, header: Header) -> anyhow::Result<Self> {
        let file = open(path).with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another process writes {}", path.display()),
            // Some file systems have no locks.
            Err(TryLockError::Error(error)) => tracing::debug!(%error, "the record is not locked"),
        }
        let mut this = Self { path: path.to_owned(), most: most / 2, header, file, bytes: 0 };
        this.take_over().with_context(|| format!("cannot go on with {}", path.display()))?;
        Ok(this)
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// They cannot be written, or are more than one file may hold.
    pub(super) fn write(&mut self, lines: &str) -> anyhow::Result<Written> {
        let length = lines.len() as u64;
        ensure!(
            length + self.header_line().len() as u64 <= self.most,
            "one tick takes {length} bytes, and record.maxBytes has room for {} in a file",
            self.most
        );
        let written = if self.bytes + length > self.most {
            self.turn().with_context(|| format!("cannot begin {} anew", self.path.display()))?;
            Written::Anew
        } else {
            Written::InPlace
        };
        self.append(lines).with_context(|| format!("cannot write {}", self.path.display()))?;
        Ok(written)
    }

    /// Looks at what is there already, and writes the header.
    fn take_over(&mut self) -> anyhow::Result<()> {
        self.bytes = self.file.metadata()?.len();
        let header = self.header_line();
        if self.bytes > 0 {
            let mut first = String::new();
            // What is no text is no record either.
            let read = BufReader::new((&self.file).take(FIRST_MOST)).read_line(&mut first);
            ensure!(read.is_ok() && begins_record(&first), "it is no record, and is left as it is");
            // A record of another form, or one that is full already, is the one before.
            if Line::parse(&first).is_err() || self.bytes + header.len() as u64 > self.most {
                return Ok(self.turn()?);
            }
            self.end_torn_line()?;
        }
        Ok(self.append(&header)?)
    }

    /// A process that was killed may have left half a line.
    fn end_torn_line(&mut self) -> io::Result<()> {
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        if last == *b"\n" { Ok(()) } else { self.append("\n") }
    }

    fn turn(&mut self) -> io::Result<()> {
        fs::rename(&self.path, before(&self.path))?;
        self.file = open(&self.path)?;
        // Who had the lock of the old file has that of the new one: others see it when they come.
        let _ = self.file.try_lock();
        self.bytes = 0;
        self.header.part += 1;
        let header = self.header_line();
        self.append(&header)
    }

    fn append(&mut self, lines: &str) -> io::Result<()> {
        self.file.write_all(lines.as_bytes())?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn header_line(&self) -> String {
        Line::Header(self.header.clone()).text() + "\n"
    }
}

/// The file before the one at `path`.
pub(crate) fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Opens or creates a file. A device is left alone: the first turn would give it another name.
fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => {}
    }
    OpenOptions::new().create(true).read(true).append(true).mode(MODE).open(path)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt as _, symlink},
        time::Duration,
    };

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("tidegate-record-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn file(&self) -> PathBuf {
            self.0.join("record.jsonl")
        }

        fn text(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        fn older(&self) -> String {
            fs::read_to_string(before(&self.file())).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn header(session: u64) -> Header {
        Header { version: 1, program: "tidegate 0".into(), session, part: 0, at: Duration::from_secs(1) }
    }

    fn open(folder: &Folder, session: u64) -> anyhow::Result<Files> {
        Files::open(&folder.file(), 2000, header(session))
    }

    fn headers(text: &str) -> Vec<u64> {
        let session = |line| match Line::parse(line) {
            Ok(Line::Header(header)) => Some(header.session),
            _ => None,
        };
        text.lines().filter_map(session).collect()
    }

    #[test]
    fn both_files_together_stay_within_the_bound_and_the_oldest_lines_go_first() {
        let folder = Folder::new("bound");
        let mut files = open(&folder, 1).unwrap();
        let mut turns = 0;
        for number in 0..200 {
            let written = files.write(&format!("{{\"gap\":{number:050}}}\n")).unwrap();
            turns += u32::from(written == Written::Anew);
            let older = fs::metadata(before(&folder.file())).map_or(0, |it| it.len());
            assert!(folder.text().len() as u64 + older <= 2000);
        }
        assert!(turns > 5, "{turns}");
        assert!(folder.text().ends_with("0199}\n"));
        for text in [folder.text(), folder.older()] {
            assert_eq!(headers(&text), [1], "each file begins with a header");
            assert!(begins_record(text.lines().next().unwrap()));
        }
        assert!(folder.text().contains(&format!("\"part\":{turns},")), "{}", folder.text());
        let joined = folder.older() + &folder.text();
        let numbers: Vec<u32> = joined
            .lines()
            .filter_map(|line| line.strip_prefix("{\"gap\":")?.strip_suffix('}')?.parse().ok())
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    }

    #[test]
    fn what_one_file_cannot_hold_is_not_written() {
        let folder = Folder::new("large");
        let mut files = open(&folder, 1).unwrap();
        let error = files.write(&"x".repeat(1000)).unwrap_err().to_string();
        assert!(error.contains("one tick takes 1000 bytes"), "{error}");
        assert_eq!(folder.text().lines().count(), 1);
    }

    #[test]
    fn another_process_goes_on_behind_a_torn_line() {
        let folder = Folder::new("torn");
        let mut files = open(&folder, 1).unwrap();
        files.write("{\"gap\":1}\n{\"ga").unwrap();
        drop(files);
        drop(open(&folder, 2).unwrap());
        assert_eq!(headers(&folder.text()), [1, 2]);
        assert!(folder.text().contains("\n{\"ga\n{\"header\""), "{}", folder.text());
    }

    #[test]
    fn a_record_has_one_writer() {
        let folder = Folder::new("locked");
        let _files = open(&folder, 1).unwrap();
        let error = open(&folder, 2).unwrap_err().to_string();
        assert!(error.contains("another process writes"), "{error}");
    }

    #[test]
    fn what_is_no_record_is_left_as_it_is() {
        let folder = Folder::new("foreign");
        fs::write(folder.file(), "listen: 0.0.0.0:8080\n").unwrap();
        let error = format!("{:#}", open(&folder, 1).unwrap_err());
        assert!(error.ends_with("it is no record, and is left as it is"), "{error}");
        assert_eq!(folder.text(), "listen: 0.0.0.0:8080\n");
    }

    #[test]
    fn what_is_no_regular_file_is_left_where_it_is() {
        let folder = Folder::new("device");
        // A link stands in for the device: taking that away would be a loss.
        symlink("/dev/null", folder.file()).unwrap();
        let error = format!("{:#}", open(&folder, 1).unwrap_err());
        assert!(error.ends_with("record.jsonl: it is not a regular file"), "{error}");
        assert_eq!(fs::read_link(folder.file()).unwrap(), Path::new("/dev/null"));
        fs::remove_file(folder.file()).unwrap();
        fs::create_dir(folder.file()).unwrap();
        let error = format!("{:#}", open(&folder, 1).unwrap_err());
        assert!(error.ends_with("it is not a regular file"), "{error}");
    }

    #[test]
    fn nobody_else_may_read_what_is_written() {
        let folder = Folder::new("mode");
        let mut files = open(&folder, 1).unwrap();
        while files.write("{\"gap\":1}\n").unwrap() == Written::InPlace {}
        for file in [folder.file(), before(&folder.file())] {
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}: {mode:o}", file.display());
        }
    }

    #[test]
    fn a_record_of_another_form_becomes_the_one_before() {
        let folder = Folder::new("newer");
        let newer = "{\"header\":{\"version\":2}}\n";
        fs::write(folder.file(), newer).unwrap();
        drop(open(&folder, 3).unwrap());
        assert_eq!((folder.older().as_str(), headers(&folder.text())), (newer, vec![3]));
    }
}
