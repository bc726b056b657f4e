//! Names of models as keys of a ConfigMap, which may hold letters, digits, `-`, `.` and `_` only: anything else is
//! written as `_` and two hexadecimal digits, and `_` itself twice.

/// The longest key there may be.
const KEY_MAX: usize = 253;

/// `None` for a name that is too long, or none at all.
pub(super) fn of(model: &str) -> Option<String> {
    let mut key = String::with_capacity(model.len());
    for byte in model.bytes() {
        match byte {
            b'_' => key.push_str("__"),
            b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => key.push(byte.into()),
            other => key.push_str(&format!("_{other:02x}")),
        }
    }
    // `.` and everything that begins with `..` are refused as keys.
    let usable = key.len() <= KEY_MAX && !key.is_empty() && key != "." && !key.starts_with("..");
    usable.then_some(key)
}

/// The name behind a key; `None` for keys that are not ours.
pub(super) fn model(key: &str) -> Option<String> {
    let (mut name, mut rest) = (Vec::with_capacity(key.len()), key.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'_', [b'_', after @ ..]) => {
                name.push(b'_');
                rest = after;
            }
            (b'_', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                name.push(u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = after;
            }
            (b'_', _) => return None,
            (other, _) => name.push(other),
        }
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_again_behind_a_key_that_is_allowed() {
        for name in ["resnet50", "a_b", "ml/resnet_50", "_", "__", "_5f", "a b", "modèle", "a.b-c"] {
            let key = of(name).unwrap();
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)), "{key}");
            assert_eq!(model(&key).as_deref(), Some(name), "{key}");
        }
    }

    #[test]
    fn names_that_cannot_be_keys_and_keys_that_are_no_names_are_refused() {
        for name in ["", ".", "..", "..a", &"a".repeat(254), &"/".repeat(85)] {
            assert_eq!(of(name), None, "{name}");
        }
        for key in ["_", "a_", "a_z", "_zz", "_ff"] {
            assert_eq!(model(key), None, "{key}");
        }
    }
}
