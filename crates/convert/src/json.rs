//! Reading JSON where it stands: nothing is built but what the caller asks for.
//!
//! Not serde: tensors need every number correctly rounded to its datatype and named by index when it does not
//! fit, V1 allows NaN and Infinity, and data is skipped at memory speed until its memory is charged.

use std::{borrow::Cow, ops::Range};

use memchr::memchr3;

use crate::{
    error::{Error, NESTING_MAX},
    quote::Quoted,
};

mod escape;
mod number;
mod write;

pub(crate) use number::Number;
use number::Parts;
pub(crate) use write::{Object, array, value};

const BAD_STRING: &str = "a string with an invalid escape or a control character";

/// What passes for a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// JSON's numbers only.
    Strict,
    /// The same, in a body that can have its tensors in binary.
    OrBinary,
    /// Also `NaN`, `Infinity` and `-Infinity`.
    NonFinite,
    /// As servers answer: also `null` for NaN.
    Lenient,
}

/// What a value is, by its first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Array,
    Object,
    String,
    Number,
    True,
    False,
    Null,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Array => "an array",
            Self::Object => "an object",
            Self::String => "a string",
            Self::Number => "a number",
            Self::True => "true",
            Self::False => "false",
            Self::Null => "null",
        }
    }
}

/// A place in a JSON text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    dialect: Dialect,
}

impl<'a> Reader<'a> {
    /// At the start of `body`.
    ///
    /// # Errors
    /// If it is not UTF-8, or starts with a byte order mark.
    pub(crate) fn new(body: &'a [u8], dialect: Dialect) -> Result<Self, Error> {
        let (text, invalid) = match str::from_utf8(body) {
            Ok(text) => (text, None),
            Err(error) => (Self::valid_prefix(body), Some(error.valid_up_to())),
        };
        let reader = Self { text, at: 0, depth: 0, dialect };
        if let Some(at) = invalid {
            return Err(reader.syntax_at("invalid UTF-8", at));
        }
        if text.starts_with('\u{feff}') {
            return Err(reader.syntax("a byte order mark"));
        }
        Ok(reader)
    }

    /// At the start of `body`, up to its first byte that is not UTF-8: JSON with binary data after it.
    pub(crate) fn of_prefix(body: &'a [u8]) -> Self {
        Self { text: Self::valid_prefix(body), at: 0, depth: 0, dialect: Dialect::Lenient }
    }

    fn valid_prefix(body: &'a [u8]) -> &'a str {
        body.utf8_chunks().next().map_or("", |chunk| chunk.valid())
    }

    /// At `at` of the same text.
    pub(crate) fn seek(self, at: usize) -> Self {
        Self { at, depth: 0, ..self }
    }

    /// Bytes of the text that are behind.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The text of a value that [`Reader::skip_range`] has passed.
    pub(crate) fn raw(&self, range: Range<usize>) -> &'a str {
        self.slice(range)
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the next value is.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<Kind, Error> {
        match self.peek() {
            Some(b'[') => Ok(Kind::Array),
            Some(b'{') => Ok(Kind::Object),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => Ok(Kind::Number),
            Some(b't') => Ok(Kind::True),
            Some(b'f') => Ok(Kind::False),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.syntax("expected a value")),
        }
    }

    /// Reads an array, calling `item` before each of its values, which it must read.
    #[inline]
    pub(crate) fn array(
        &mut self,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        self.open(b'[', "expected '['")?;
        let mut length = 0;
        if self.take(b']') {
            self.depth -= 1;
            return Ok(length);
        }
        loop {
            item(self, length)?;
            length += 1;
            if self.take(b',') {
                continue;
            }
            self.expect(b']', "expected ',' or ']'")?;
            self.depth -= 1;
            return Ok(length);
        }
    }

    /// Reads an object, calling `member` before each of its values, which it must read.
    pub(crate) fn object(
        &mut self,
        member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.open(b'{', "expected '{'")?;
        if self.take(b'}') {
            self.depth -= 1;
            return Ok(());
        }
        self.members(member)
    }

    /// Reads an object from one of its keys on, at the start of the text.
    pub(crate) fn rest_of_object(
        &mut self,
        member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.depth += 1;
        self.members(member)
    }

    #[inline]
    fn members(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.syntax("expected a key in quotes"));
            }
            let key = self.string()?;
            self.expect(b':', "expected ':'")?;
            member(self, key)?;
            if self.take(b',') {
                continue;
            }
            self.expect(b'}', "expected ',' or '}'")?;
            self.depth -= 1;
            return Ok(());
        }
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Error> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let end = self.string_end()?;
        self.at = end + 1;
        let (inner, quoted) = (self.slice(start..end), self.slice(start - 1..end + 1));
        let plain = inner.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'\\'));
        if plain {
            return Ok(Cow::Borrowed(inner));
        }
        serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| self.syntax_at(BAD_STRING, start - 1))
    }

    /// Position of the quote that ends the string `self.at` is in.
    fn string_end(&self) -> Result<usize, Error> {
        let mut at = self.at;
        loop {
            let rest = self.text.as_bytes().get(at..).unwrap_or_default();
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or_else(|| self.end_of_text())?;
            at += found;
            if rest.get(found) == Some(&b'"') {
                return Ok(at);
            }
            at += 2;
        }
    }

    /// Reads a number.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number<'a>, Error> {
        let start = self.start();
        let negative = self.take_here(b'-');
        let mut parts = Parts::default();
        match self.here() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.at += parts.whole(self.rest()),
            Some(b'I') => return self.word("Infinity", start),
            Some(b'N') if !negative => return self.word("NaN", start),
            _ => return Err(self.syntax("expected a number")),
        }
        if self.take_here(b'.') {
            let digits = parts.fraction(self.rest());
            self.pass_digits(digits)?;
        }
        if matches!(self.here(), Some(b'e' | b'E')) {
            self.at += 1;
            let negative = self.take_here(b'-');
            if !negative {
                self.take_here(b'+');
            }
            let digits = parts.exponent(self.rest(), negative);
            self.pass_digits(digits)?;
        }
        Ok(parts.number(self.slice(start..self.at)))
    }

    fn word(&mut self, word: &'static str, start: usize) -> Result<Number<'a>, Error> {
        match self.dialect {
            Dialect::Strict => return Err(self.syntax("NaN and Infinity are not JSON")),
            Dialect::OrBinary => {
                return Err(self.syntax("NaN and Infinity are not JSON (send the tensor in binary)"));
            }
            Dialect::NonFinite | Dialect::Lenient => self.literal_here(word)?,
        }
        Ok(Number::word(self.slice(start..self.at)))
    }

    #[inline]
    fn pass_digits(&mut self, digits: usize) -> Result<(), Error> {
        self.at += digits;
        if digits == 0 { Err(self.syntax("expected a digit")) } else { Ok(()) }
    }

    /// Reads `true`, `false` or `null`, whichever `kind` says.
    pub(crate) fn literal(&mut self, kind: Kind) -> Result<(), Error> {
        self.start();
        self.literal_here(kind.as_str())
    }

    fn literal_here(&mut self, word: &str) -> Result<(), Error> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.syntax("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads past a value.
    pub(crate) fn skip(&mut self) -> Result<(), Error> {
        match self.kind()? {
            Kind::Array => self.array(|reader, _| reader.skip()).map(drop),
            Kind::Object => self.object(|reader, _| reader.skip()),
            Kind::String => self.skip_string(),
            Kind::Number => self.number().map(drop),
            literal => self.literal(literal),
        }
    }

    /// Reads past a value; gives where it stands in the text.
    pub(crate) fn skip_range(&mut self) -> Result<Range<usize>, Error> {
        let start = self.start();
        self.skip()?;
        Ok(start..self.at)
    }

    /// Reads past a string: its escapes are checked, but nothing is built of them.
    fn skip_string(&mut self) -> Result<(), Error> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        loop {
            let rest = self.rest();
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or_else(|| self.end_of_text())?;
            self.at += found;
            let rest = rest.get(found..).unwrap_or_default();
            if rest.first() == Some(&b'"') {
                break;
            }
            self.at += escape::length(rest).ok_or_else(|| self.syntax_at(BAD_STRING, start - 1))?;
        }
        let inner = self.text.as_bytes().get(start..self.at).unwrap_or_default();
        self.at += 1;
        if inner.iter().fold(true, |plain, byte| plain & (*byte >= b' ')) {
            return Ok(());
        }
        Err(self.syntax_at(BAD_STRING, start - 1))
    }

    /// Goes past an array by its brackets alone, without a look at what is in it.
    ///
    /// Reading it later finds what is wrong, and ends at the same bracket if nothing is.
    pub(crate) fn skip_array(&mut self) -> Result<Range<usize>, Error> {
        let start = self.start();
        self.expect(b'[', "expected '['")?;
        let mut open = 1;
        while open > 0 {
            let rest = self.rest();
            let found = memchr3(b'[', b']', b'"', rest).ok_or_else(|| self.end_of_text())?;
            self.at += found + 1;
            match rest.get(found) {
                Some(b'[') => open += 1,
                Some(b']') => open -= 1,
                _ => self.at = self.string_end()? + 1,
            }
            if open + self.depth > NESTING_MAX {
                return Err(Error::Nesting);
            }
        }
        Ok(start..self.at)
    }

    /// That only white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.syntax("trailing characters")),
        }
    }

    #[inline]
    fn open(&mut self, byte: u8, expected: &'static str) -> Result<(), Error> {
        self.expect(byte, expected)?;
        self.depth += 1;
        if self.depth > NESTING_MAX { Err(Error::Nesting) } else { Ok(()) }
    }

    #[inline]
    fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), Error> {
        if self.take(byte) { Ok(()) } else { Err(self.syntax(expected)) }
    }

    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        self.start();
        self.take_here(byte)
    }

    #[inline]
    fn take_here(&mut self, byte: u8) -> bool {
        let found = self.here() == Some(byte);
        self.at += usize::from(found);
        found
    }

    #[inline]
    fn peek(&mut self) -> Option<u8> {
        self.start();
        self.here()
    }

    /// Skips white space.
    #[inline]
    pub(crate) fn start(&mut self) -> usize {
        while matches!(self.here(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        self.at
    }

    #[inline]
    fn here(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn slice(&self, range: Range<usize>) -> &'a str {
        self.text.get(range).expect("a token starts and ends beside ASCII")
    }

    fn end_of_text(&self) -> Error {
        self.syntax_at("unexpected end", self.text.len())
    }

    /// That something else is wrong here, if not the text has just ended.
    fn syntax(&self, what: &'static str) -> Error {
        let what = if self.here().is_none() { "unexpected end" } else { what };
        self.syntax_at(what, self.at)
    }

    fn syntax_at(&self, what: &'static str, at: usize) -> Error {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        let column = 1 + at - memchr::memrchr(b'\n', before).map_or(0, |newline| newline + 1);
        Error::Syntax { what, line, column }
    }
}

/// Keeps `value` as the one `field` of an object.
pub(crate) fn once<T>(slot: &mut Option<T>, field: &str, value: T) -> Result<(), Error> {
    match slot.replace(value) {
        Some(_) => Err(Error::DuplicateField(Quoted::new(field))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
