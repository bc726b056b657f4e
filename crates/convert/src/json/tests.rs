use proptest::prelude::*;

use super::*;

fn skip(text: &[u8], dialect: Dialect) -> Result<(), Error> {
    let mut reader = Reader::new(text, dialect)?;
    reader.skip()?;
    reader.end()
}

#[test]
fn errors_say_where() {
    let cases: [(&[u8], &str); 14] = [
        (b"", "unexpected end at line 1 column 1"),
        (b"  {\"a\":1\n\n\"b\":2}", "expected ',' or '}' at line 3 column 1"),
        (b"[1 2]", "expected ',' or ']' at line 1 column 4"),
        (b"[1,]", "expected a value at line 1 column 4"),
        (b"{a:1}", "expected a key in quotes at line 1 column 2"),
        (b"{\"a\" 1}", "expected ':' at line 1 column 6"),
        (b"[1.]", "expected a digit at line 1 column 4"),
        (b"[01]", "expected ',' or ']' at line 1 column 3"),
        (b"[\"a", "unexpected end at line 1 column 4"),
        (b"[\"\\ud800\"]", "a string with an invalid escape or a control character at line 1 column 2"),
        (b"{} x", "trailing characters at line 1 column 4"),
        (b"\xef\xbb\xbf{}", "a byte order mark at line 1 column 1"),
        (b"[\n\"\xff\"]", "invalid UTF-8 at line 2 column 2"),
        (b"[NaN]", "NaN and Infinity are not JSON at line 1 column 2"),
    ];
    for (text, expected) in cases {
        let error = skip(text, Dialect::Strict).unwrap_err().to_string();
        assert_eq!(error, format!("body is not valid JSON: {expected}"), "{text:?}");
    }
}

#[test]
fn a_hundred_levels_are_read_and_no_more() {
    let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(skip(nested(100).as_bytes(), Dialect::Strict), Ok(()));
    assert_eq!(skip(nested(101).as_bytes(), Dialect::Strict), Err(Error::Nesting));
    let array = |levels| Reader::new(nested(levels).as_bytes(), Dialect::Strict).unwrap().skip_array();
    assert_eq!(array(100), Ok(0..200));
    assert_eq!(array(101), Err(Error::Nesting));
}

#[test]
fn words_for_numbers_are_read_where_the_dialect_has_them() {
    for text in ["NaN", "Infinity", "-Infinity"] {
        assert_eq!(skip(text.as_bytes(), Dialect::NonFinite), Ok(()));
    }
    for text in ["-NaN", "Inf", "nan", "NaNs"] {
        assert!(skip(text.as_bytes(), Dialect::NonFinite).is_err(), "{text}");
    }
}

#[test]
fn an_array_is_skipped_past_brackets_in_strings() {
    let text = br#" ["]", "\"]", [[1]], "\\"] ]"#;
    let range = Reader::new(text, Dialect::Strict).unwrap().skip_array().unwrap();
    assert_eq!(&text[range], &text[1..26]);
}

/// Pieces that make valid and nearly valid JSON likely.
fn fragments() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"a\"",
        "\"\\n\"",
        "\"\\u12\"",
        "\"",
        "1",
        "-",
        "0",
        ".5",
        "e3",
        "E+",
        "true",
        "false",
        "null",
        "nul",
        " ",
        "\n",
        "é",
        "\\",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_json_for_serde_is_json_here_and_nothing_else(text in fragments()) {
        let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        // serde_json leaves escapes unchecked in what it ignores.
        let theirs = theirs && serde_json::from_str::<serde_json::Value>(&text).is_ok();
        prop_assert_eq!(skip(text.as_bytes(), Dialect::Strict).is_ok(), theirs, "{}", text);
    }

    #[test]
    fn every_value_is_read_to_its_end(value in value()) {
        for text in [serde_json::to_string(&value).unwrap(), serde_json::to_string_pretty(&value).unwrap()] {
            prop_assert_eq!(skip(text.as_bytes(), Dialect::Strict), Ok(()));
        }
    }

    #[test]
    fn strings_survive(text in any::<String>()) {
        let mut out = Vec::new();
        super::value(&mut out, &text);
        let mut reader = Reader::new(&out, Dialect::Strict).unwrap();
        prop_assert_eq!(reader.string().unwrap(), text);
        prop_assert!(reader.end().is_ok());
    }
}
