//! What a body is said to be: JSON, JSON with binary tensors behind it, or one raw tensor.

use http::{HeaderMap, header};

use super::HEADER_LENGTH;
use crate::status::{Failure, Situation, quote};

/// Reads `inference-header-content-length`: bytes of JSON before the binary tensors; 0 where there is no JSON.
pub(super) fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Failure> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let sentence = "inference-header-content-length is given more than once";
        return Err(Failure::new(Situation::BadHeaderLength, sentence));
    }
    let value = String::from_utf8_lossy(value.as_bytes());
    Ok(Some(convert::v2::header_length(&value)?))
}

/// What `curl -d` says of every body, whatever it is.
const CURL_SAYS: &str = "application/x-www-form-urlencoded";

/// Checks that a body says it is JSON, or binary tensors where these are known; one that says nothing, or what
/// `curl -d` says unasked, is JSON.
pub(super) fn check(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let value = String::from_utf8_lossy(value.as_bytes());
    let essence = value.split(';').next().unwrap_or_default().trim();
    if accepted.iter().chain([&CURL_SAYS]).any(|known| essence.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    let sentence =
        format!("content type {} is not supported; send {}", quote(essence), accepted.join(" or "));
    Err(Failure::new(Situation::UnsupportedMediaType, sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_known_types_pass() {
        let of = |value: Option<&'static str>| {
            let headers = value.map(|v| (header::CONTENT_TYPE, v.parse().unwrap()));
            check(&HeaderMap::from_iter(headers), &["application/json"]).is_ok()
        };
        assert!(of(None));
        assert!(of(Some("Application/JSON; charset=utf-8")));
        assert!(of(Some("application/x-www-form-urlencoded")));
        assert!(!of(Some("text/plain")));
        assert!(!of(Some("multipart/form-data; boundary=x")));
    }

    #[test]
    fn a_header_length_given_twice_is_refused() {
        let mut headers = HeaderMap::new();
        headers.append(HEADER_LENGTH, 10.into());
        headers.append(HEADER_LENGTH, 10.into());
        assert_eq!(header_length(&headers).unwrap_err().situation, Situation::BadHeaderLength);
    }
}
