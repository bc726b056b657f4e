//! Escapes in strings, checked without being resolved.

/// Bytes of the escape that `text` starts with, its backslash included; a surrogate pair is one escape. `None`
/// if it is cut off, unknown, or half of a pair.
#[inline]
pub(super) fn length(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => match unit(text)? {
            0xd800..=0xdbff => matches!(unit(text.get(6..)?)?, 0xdc00..=0xdfff).then_some(12),
            0xdc00..=0xdfff => None,
            _ => Some(6),
        },
        _ => None,
    }
}

/// The UTF-16 unit of a `\uXXXX` that `text` starts with.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_is_as_long_as_serde_finds_it() {
        let cases = [r"\n", r"\/", r"\u0000", r"\uD83d\uDe00", r"\ud83d", r"\ude00", r"\ud83d\u0041", r"\x"];
        for text in cases {
            let theirs: Result<String, _> = serde_json::from_str(&format!("\"{text}\""));
            assert_eq!(length(text.as_bytes()), theirs.is_ok().then_some(text.len()), "{text}");
        }
        for cut in ["\\", "\\u", "\\u12", "\\ud83d\\u"] {
            assert_eq!(length(cut.as_bytes()), None, "{cut}");
        }
    }
}
