//! The forms that values of variables have.

use std::ops::RangeInclusive;

use http::{HeaderName, HeaderValue, Uri, uri::Scheme};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Reads a value, or says what is wrong with it without showing it.
pub(super) trait Form<T>: Fn(&str) -> Result<T, String> {}

impl<T, F: Fn(&str) -> Result<T, String>> Form<T> for F {}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) whole: String,
    pub(super) shown: String,
    pub(super) port: Option<u16>,
    pub(super) is_https: bool,
}

pub(super) fn endpoint(value: &str) -> Result<Endpoint, String> {
    let problem = || "it must be a URL like http://collector:4317".to_owned();
    let uri: Uri = value.parse().map_err(|_| problem())?;
    let (scheme, authority) = uri.scheme().zip(uri.authority()).ok_or_else(problem)?;
    if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
        return Err(problem());
    }
    let port = authority.port_u16().map_or_else(String::new, |port| format!(":{port}"));
    Ok(Endpoint {
        whole: value.to_owned(),
        shown: format!("{scheme}://{}{port}", authority.host()),
        port: authority.port_u16(),
        is_https: *scheme == Scheme::HTTPS,
    })
}

pub(super) fn flag(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

pub(super) fn integer(range: RangeInclusive<u64>) -> impl Form<u64> {
    move |value: &str| {
        let read = value.parse().ok().filter(|number| range.contains(number));
        read.ok_or_else(|| format!("it must be a whole number from {} to {}", range.start(), range.end()))
    }
}

pub(super) fn ratio(value: &str) -> Result<f64, String> {
    let read = value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    read.ok_or_else(|| "it must be a number from 0 to 1".to_owned())
}

/// `key=value` with commas between, values in percent encoding.
pub(super) fn pairs(value: &str) -> Result<Vec<(String, String)>, String> {
    let problem = || "it must be key=value pairs with commas between, in percent encoding".to_owned();
    let entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let read = entries.map(|entry| {
        let (key, value) = entry.split_once('=')?;
        let key = key.trim();
        let value = decoded(value.trim())?;
        (!key.is_empty()).then(|| (key.to_owned(), value))
    });
    read.map(|pair| pair.ok_or_else(problem)).collect()
}

/// Pairs that are sent as headers.
pub(super) fn headers(value: &str) -> Result<(), String> {
    for (name, value) in pairs(value)? {
        HeaderName::try_from(&name).map_err(|_| format!("{name:?} cannot be the name of a header"))?;
        HeaderValue::try_from(value)
            .map_err(|_| format!("the value of {name} cannot be that of a header"))?;
    }
    Ok(())
}

/// Certificates in PEM.
pub(in super::super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.ok().filter(|certificates| !certificates.is_empty());
    read.ok_or_else(|| "the file has no certificate in PEM".to_owned())
}

/// A private key in PEM.
pub(in super::super) fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| "the file has no private key in PEM".to_owned())
}

/// Undoes percent encoding.
fn decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}
