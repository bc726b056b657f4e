//! The id of one call: the client's own where it is presentable, else a new one that sorts by time.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const LENGTH_MAX: usize = 128;
/// Crockford's base 32: no letter that is mistaken for a digit.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// 48 bits of milliseconds and 80 of chance, five bits a letter.
const LETTERS: usize = 26;

/// The id of the call with these headers.
pub(crate) fn of(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(id) if is_presentable(id.as_bytes()) => id.clone(),
        _ => fresh(),
    }
}

fn is_presentable(id: &[u8]) -> bool {
    (1..=LENGTH_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn fresh() -> HeaderValue {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let bits = (now.as_millis() << 80) | (rand::random::<u128>() >> 48);
    let mut id = [0; LETTERS];
    for (place, letter) in id.iter_mut().rev().enumerate() {
        let five = usize::try_from((bits >> (5 * place)) & 31).expect("five bits fit");
        *letter = ALPHABET.get(five).copied().expect("five bits are a place in 32 letters");
    }
    HeaderValue::from_bytes(&id).expect("the alphabet is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(id: &str) -> HeaderValue {
        of(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(id).unwrap())]))
    }

    #[test]
    fn a_presentable_id_is_kept_and_any_other_replaced() {
        assert_eq!(given("abc-1"), "abc-1");
        for odd in ["", "with space", &"x".repeat(129)] {
            let id = given(odd);
            assert_ne!(id, odd);
            assert_eq!(id.len(), LETTERS);
        }
    }

    #[test]
    fn fresh_ids_differ() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| fresh()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
