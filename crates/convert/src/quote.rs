//! What a client wrote, made safe to repeat to it: cut, without control characters, in quotes.

use std::fmt::{self, Write as _};

use pipeline::tensor::DataType;

/// Characters kept of one thing the client wrote.
const QUOTED_MAX: usize = 64;
/// Characters kept of a list.
const LISTED_MAX: usize = 120;
/// Dimensions or indices shown of a shape or path.
const SHOWN_MAX: usize = 16;

pub(crate) const DATATYPES: &str =
    "BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BF16, BYTES";

/// A text of the client, shown in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(Clipped);

impl Quoted {
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Clipped::new(text))
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// A text of the client, shown as it is, but cut and escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clipped(String);

impl Clipped {
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut clipped = String::with_capacity(text.len().min(QUOTED_MAX));
        // An escape counts as its own length: the sentence as a whole has a limit.
        let mut length = 0;
        for c in text.chars() {
            let escaped = c.is_control() || matches!(c, '"' | '\\' | '\u{2028}' | '\u{2029}');
            length += if escaped { c.escape_default().len() } else { 1 };
            if length > QUOTED_MAX {
                clipped.push('…');
                break;
            }
            if escaped { clipped.extend(c.escape_default()) } else { clipped.push(c) }
        }
        Self(clipped)
    }
}

impl fmt::Display for Clipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Several things in one line, as many as fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed(String);

impl Listed {
    pub(crate) fn new<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> Self {
        let mut list = String::new();
        for item in items {
            let item = item.to_string();
            if list.chars().count() + item.chars().count() > LISTED_MAX {
                list.push('…');
                break;
            }
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(&item);
        }
        Self(list)
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[1,4]`
pub(crate) fn shape(dims: &[u64]) -> String {
    bracketed(dims)
}

/// `[-1,4]`
pub(crate) fn dims(dims: &[i64]) -> String {
    bracketed(dims)
}

/// `[0][2]`
pub(crate) fn path(indices: &[usize]) -> String {
    let mut path = String::new();
    for index in indices.iter().take(SHOWN_MAX) {
        let _ = write!(path, "[{index}]");
    }
    if indices.len() > SHOWN_MAX {
        path.push('…');
    }
    path
}

/// What an element of the datatype is in JSON.
pub(crate) fn takes(datatype: DataType) -> &'static str {
    match datatype {
        DataType::Bytes => "strings",
        DataType::Bool => "true and false",
        _ => "numbers",
    }
}

fn bracketed<T: fmt::Display>(items: &[T]) -> String {
    let mut shown: Vec<String> = items.iter().take(SHOWN_MAX).map(T::to_string).collect();
    if items.len() > SHOWN_MAX {
        shown.push("…".to_owned());
    }
    format!("[{}]", shown.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_datatypes_is_complete() {
        assert_eq!(DATATYPES, DataType::ALL.map(DataType::as_str).join(", "));
    }

    #[test]
    fn what_the_client_wrote_is_escaped_and_cut() {
        assert_eq!(Quoted::new("a\nb\"c").to_string(), r#""a\nb\"c""#);
        assert_eq!(Quoted::new(&"x".repeat(65)).to_string(), format!("\"{}…\"", "x".repeat(64)));
        assert!(Quoted::new(&"\u{7f}".repeat(100)).to_string().chars().count() <= QUOTED_MAX + 3);
    }

    #[test]
    fn a_list_ends_where_the_line_is_full() {
        assert_eq!(Listed::new(["a", "b"]).to_string(), "a, b");
        let long = Listed::new(["n".repeat(60), "m".repeat(60), "o".repeat(60)]).to_string();
        assert!(long.ends_with('…') && long.chars().count() <= LISTED_MAX + 3, "{long}");
    }
}
