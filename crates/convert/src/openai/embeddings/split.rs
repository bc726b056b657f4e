//! One answer for several callers, who each get their own rows and no others.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;

use crate::{
    error::Error,
    json::{self, Dialect, Kind, Object, Reader, once},
};

/// What one caller's request is of a merged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub(super) rows: usize,
    /// Bytes of its inputs, never 0: its part of the tokens, as far as can be told.
    pub(super) bytes: usize,
}

impl Share {
    /// Inputs, each of which has a row in the answer.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Splits the answer to a merged request; gives each caller's answer, in the order of `shares`.
///
/// Rows are told apart by their `index`, which starts at 0 in each caller's answer. The tokens in `usage` are
/// shared out by the bytes of the inputs, so that they add up. All else is the same for everyone.
///
/// # Errors
/// If there is not exactly one row for each input: then nobody gets any.
pub fn split(answer: &[u8], shares: &[Share]) -> Result<Vec<Bytes>, Error> {
    let mut reader = Reader::new(answer, Dialect::Lenient)?;
    if reader.kind()? != Kind::Object {
        return Err(Error::NotAnObject);
    }
    let expected = shares.iter().map(|share| share.rows).sum();
    let mut fields = Fields::default();
    reader.object(|reader, key| fields.read(reader, key, expected))?;
    reader.end()?;
    let rows = in_order(fields.rows.ok_or(Error::MissingField("data"))?, expected)?;
    let parts = Parts { reader, members: &fields.members };

    let bytes = shares.iter().map(|share| share.bytes).sum();
    let (mut rows, mut before) = (rows.as_slice(), 0);
    let answers = shares.iter().map(|share| {
        let (own, others) = rows.split_at(share.rows);
        let tokens = Tokens { bytes: before..before + share.bytes, of: bytes };
        (rows, before) = (others, tokens.bytes.end);
        parts.write(own, &tokens)
    });
    answers.collect()
}

/// A row of the answer.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    at: Range<usize>,
    index: usize,
    /// Where the number of the index stands.
    index_at: Range<usize>,
}

/// A member of the answer, by its key.
enum Member {
    Rows,
    Usage(Range<usize>),
    Other(Range<usize>),
}

#[derive(Default)]
struct Fields<'a> {
    members: Vec<(Cow<'a, str>, Member)>,
    rows: Option<Vec<Row>>,
}

impl<'a> Fields<'a> {
    fn read(&mut self, reader: &mut Reader<'a>, key: Cow<'a, str>, expected: usize) -> Result<(), Error> {
        let member = match &*key {
            "data" => {
                once(&mut self.rows, &key, read_rows(reader, expected)?)?;
                Member::Rows
            }
            "usage" => Member::Usage(reader.skip_range()?),
            _ => Member::Other(reader.skip_range()?),
        };
        self.members.push((key, member));
        Ok(())
    }
}

fn read_rows(reader: &mut Reader<'_>, expected: usize) -> Result<Vec<Row>, Error> {
    let wrong = || Error::FieldType { field: "data", expected: "a list of objects" };
    if reader.kind()? != Kind::Array {
        return Err(wrong());
    }
    let mut rows = Vec::with_capacity(expected);
    let got = reader.array(|reader, index| {
        if reader.kind()? != Kind::Object {
            return Err(wrong());
        }
        let row = Row::read(reader)?;
        // What is beyond is counted, but not kept.
        if index < expected {
            rows.push(row);
        }
        Ok(())
    })?;
    if got == expected { Ok(rows) } else { Err(Error::EmbeddingCount { expected, got }) }
}

impl Row {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let start = reader.start();
        let mut index = None;
        reader.object(|reader, key| match (&*key, reader.kind()?) {
            ("index", _) => once(&mut index, &key, read_index(reader)?),
            // The vector, at memory speed: whoever asked for it will read it.
            (_, Kind::Array) => reader.skip_array().map(drop),
            _ => reader.skip(),
        })?;
        let (index, index_at) = index.ok_or(Error::MissingField("index"))?;
        Ok(Self { at: start..reader.position(), index, index_at })
    }
}

fn read_index(reader: &mut Reader<'_>) -> Result<(usize, Range<usize>), Error> {
    let wrong = Error::FieldType { field: "index", expected: "a whole number" };
    if reader.kind()? != Kind::Number {
        return Err(wrong);
    }
    let start = reader.start();
    let index = reader.number()?.whole().ok_or(wrong)?;
    Ok((index, start..reader.position()))
}

/// Rows by their index, each of which is there once.
fn in_order(rows: Vec<Row>, expected: usize) -> Result<Vec<Row>, Error> {
    let mut slots = vec![None; expected];
    for row in rows {
        let index = row.index;
        let slot = slots.get_mut(index).ok_or(Error::EmbeddingIndex(index))?;
        if slot.replace(row).is_some() {
            return Err(Error::EmbeddingIndex(index));
        }
    }
    // As many rows as slots, no two in one: all are filled.
    Ok(slots.into_iter().flatten().collect())
}

/// What the callers' answers are made of.
struct Parts<'a> {
    reader: Reader<'a>,
    members: &'a [(Cow<'a, str>, Member)],
}

impl Parts<'_> {
    fn write(&self, rows: &[Row], tokens: &Tokens) -> Result<Bytes, Error> {
        let others = self.members.iter().map(|(key, member)| match member {
            Member::Rows => 8,
            Member::Usage(at) | Member::Other(at) => key.len() + at.len() + 8,
        });
        let bytes = others.chain(rows.iter().map(|row| row.at.len() + 1)).sum();
        let mut out = Vec::with_capacity(bytes);
        let mut answer = Object::open(&mut out);
        for (key, member) in self.members {
            let out = answer.key(key);
            match member {
                Member::Rows => self.write_rows(out, rows),
                Member::Usage(at) => tokens.write(&mut self.reader.seek(at.start), out)?,
                Member::Other(at) => out.extend_from_slice(self.reader.raw(at.clone()).as_bytes()),
            }
        }
        answer.close();
        Ok(out.into())
    }

    fn write_rows(&self, out: &mut Vec<u8>, rows: &[Row]) {
        let Ok(()) = json::array(out, rows.iter().enumerate(), |out, (index, row)| {
            let raw = |at| self.reader.raw(at).as_bytes();
            out.extend_from_slice(raw(row.at.start..row.index_at.start));
            json::value(out, &index);
            out.extend_from_slice(raw(row.index_at.end..row.at.end));
            Ok::<_, std::convert::Infallible>(())
        });
    }
}

/// A caller's part of the tokens: those at its bytes, were they spread evenly over the bytes of all inputs.
struct Tokens {
    bytes: Range<usize>,
    of: usize,
}

impl Tokens {
    /// Writes the value of `usage` with this part of every number in it.
    fn write(&self, reader: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        match reader.kind()? {
            Kind::Object => {
                let mut object = Object::open(out);
                reader.object(|reader, key| self.write(reader, object.key(&key)))?;
                object.close();
            }
            Kind::Number => {
                let number = reader.number()?;
                match number.whole() {
                    Some(tokens) => json::value(out, &self.part(tokens)),
                    None => out.extend_from_slice(number.text.as_bytes()),
                }
            }
            _ => {
                let at = reader.skip_range()?;
                out.extend_from_slice(reader.raw(at).as_bytes());
            }
        }
        Ok(())
    }

    fn part(&self, tokens: u64) -> u64 {
        let until = |byte: usize| u128::from(tokens) * byte as u128 / self.of as u128;
        let part = until(self.bytes.end) - until(self.bytes.start);
        u64::try_from(part).expect("no more than all tokens")
    }
}
