//! W3C's trace context as callers send it and model servers get it.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::TraceState;
use pipeline::trace::Context;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where the caller stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Inbound {
    pub(super) context: Context,
    pub(super) sampled: bool,
    pub(super) state: TraceState,
}

impl Inbound {
    /// What the headers of a call say; `None` where they say nothing, or nothing valid.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let (context, sampled) = match (parents.next(), parents.next()) {
            (Some(parent), None) => parse(parent.as_bytes())?,
            _ => return None,
        };
        Some(Self { context, sampled, state: state(headers) })
    }
}

/// Reads `00-<trace>-<parent>-<flags>`. Of later versions so much is read as this one has.
fn parse(header: &[u8]) -> Option<(Context, bool)> {
    let (known, rest) = header.split_at_checked(55)?;
    let mut fields = known.split(|byte| *byte == b'-');
    let version = hex(fields.next()?, 2)?;
    let trace = hex(fields.next()?, 32)?;
    let span = u64::try_from(hex(fields.next()?, 16)?).ok()?;
    let flags = hex(fields.next()?, 2)?;
    let is_whole = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.first().is_none_or(|byte| *byte == b'-'),
    };
    let is_valid = is_whole && trace != 0 && span != 0 && fields.next().is_none();
    is_valid.then_some((Context { trace, span }, flags & 1 == 1))
}

/// A number of exactly so many digits, which are of lower case.
fn hex(digits: &[u8], count: usize) -> Option<u128> {
    if digits.len() != count || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    digits
        .iter()
        .try_fold(0, |number, digit| Some(number << 4 | u128::from(char::from(*digit).to_digit(16)?)))
}

/// What tracing systems pass on to each other. One that is not valid is as good as none.
fn state(headers: &HeaderMap) -> TraceState {
    let lines: Option<Vec<&str>> =
        headers.get_all(&TRACESTATE).iter().map(|line| line.to_str().ok()).collect();
    lines.and_then(|lines| lines.join(",").parse().ok()).unwrap_or_default()
}

/// The header that makes `context` the caller.
pub(super) fn traceparent(context: Context) -> HeaderValue {
    let text = format!("00-{:032x}-{:016x}-01", context.trace, context.span);
    HeaderValue::try_from(text).expect("digits and dashes are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const CONTEXT: Context =
        Context { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad_6b71_6920_3331 };

    #[test]
    fn a_valid_header_is_read_and_written_alike() {
        assert_eq!(parse(VALID.as_bytes()), Some((CONTEXT, true)));
        assert_eq!(traceparent(CONTEXT), VALID);
        let unsampled = VALID.replace("-01", "-00");
        assert_eq!(parse(unsampled.as_bytes()), Some((CONTEXT, false)));
        let random = VALID.replace("-01", "-03");
        assert_eq!(parse(random.as_bytes()), Some((CONTEXT, true)), "other flags are none of ours");
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for later in [
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-will-be",
        ] {
            assert_eq!(parse(later.as_bytes()), Some((CONTEXT, true)), "{later}");
        }
    }

    #[test]
    fn what_is_not_valid_is_no_parent() {
        for broken in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "00-0af7651916cd43dd8448eb211c8031-9cb7ad6b7169203331ab-01",
            "+0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331 01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203-31-01",
        ] {
            assert_eq!(parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn two_parents_are_none_and_a_broken_state_is_left_out() {
        let mut headers = HeaderMap::new();
        assert_eq!(Inbound::of(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        assert_eq!(Inbound::of(&headers).unwrap().state.header(), "a=1,b=2");
        headers.append(TRACESTATE, HeaderValue::from_static("no state"));
        assert_eq!(Inbound::of(&headers).unwrap().state, TraceState::NONE);
        headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
        assert_eq!(Inbound::of(&headers), None);
    }
}
