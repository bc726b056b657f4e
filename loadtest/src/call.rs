//! One request from its intended time to its outcome.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::{
    chat::reply::{self, Connection, Delivery, Received, Reply},
    check,
    connection::{Body, Lease, Pool, SendError},
    message::{Message, Protocol},
    outcome::{Outcome, reason},
};

/// Bytes of one answer that are read; the size at which gateways usually stop.
const RESPONSE_MAX: usize = 64 << 20;

/// Says how long an answer waited for a replica to start.
const COLD_START: &str = "x-tidegate-cold-start";

/// How requests are sent and judged in one run.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) protocol: Protocol,
    /// The client gives up this long after the intended time.
    pub(crate) timeout: Duration,
    /// What the server is told, counted from the intended time.
    pub(crate) deadline: Option<Duration>,
    /// Whether answers are compared with what the message expects.
    pub(crate) answers: Answers,
    /// How chat completions are answered.
    pub(crate) delivery: Delivery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Ignored,
    Checked,
}

/// One finished request.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    /// Bytes of the answer's body.
    pub(crate) bytes: u64,
    /// Rows of the batch it was answered in, where the server says so.
    pub(crate) batch_rows: Option<u32>,
    /// Whether it waited for a replica to start.
    pub(crate) cold_start: bool,
    /// The answer to a chat completion; only where it is good.
    pub(crate) reply: Option<Box<Reply>>,
}

impl Finished {
    pub(crate) fn without_answer(outcome: Outcome) -> Self {
        Self { outcome, bytes: 0, batch_rows: None, cold_start: false, reply: None }
    }
}

/// Sends `message` and reads its answer to the end. `intended` is when it should have been sent.
pub(crate) async fn call(pool: &Pool, rules: &Rules, message: &Message, intended: Instant) -> Finished {
    let mut request = message.request();
    if let Some(deadline) = rules.deadline {
        let left = (intended + deadline).saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Finished::without_answer(Outcome::ExpiredUnsent);
        }
        let (name, value) = deadline_header(rules.protocol, left);
        request.headers_mut().insert(name, value);
    }
    match timeout_at(intended + rules.timeout, exchange(pool, rules, message, request)).await {
        Ok(finished) => finished,
        Err(_) => Finished::without_answer(Outcome::ClientTimeout),
    }
}

fn deadline_header(protocol: Protocol, left: Duration) -> (HeaderName, HeaderValue) {
    // At least one: zero would be refused as malformed rather than as late.
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    if protocol.is_grpc() {
        // Eight digits are all the protocol allows.
        let value = HeaderValue::try_from(format!("{}m", millis.min(99_999_999)));
        return (HeaderName::from_static("grpc-timeout"), value.expect("digits and a letter"));
    }
    (HeaderName::from_static("x-request-timeout-ms"), HeaderValue::from(millis))
}

async fn exchange(pool: &Pool, rules: &Rules, message: &Message, request: Request<Body>) -> Finished {
    let (response, lease) = match pool.send(request).await {
        Ok(sent) => sent,
        Err(SendError::Connect(_)) => return Finished::without_answer(Outcome::ConnectFailed),
        Err(SendError::BrokenOff(_)) => return Finished::without_answer(Outcome::BrokenOff),
    };
    if rules.protocol == Protocol::Chat && response.status().is_success() {
        return completion(response, rules.delivery, lease).await;
    }
    let answer = match Answer::read(response, rules.answers).await {
        Ok(answer) => answer,
        Err(outcome) => return Finished::without_answer(outcome),
    };
    lease.give_back();
    Finished {
        outcome: answer.outcome(rules, message),
        bytes: answer.bytes,
        batch_rows: answer.number("x-tidegate-batch-rows"),
        cold_start: answer.headers.contains_key(COLD_START),
        reply: None,
    }
}

async fn completion(response: Response<Incoming>, delivery: Delivery, lease: Lease<'_>) -> Finished {
    let cold_start = response.headers().contains_key(COLD_START);
    match reply::read(response, delivery).await {
        Ok(Received { reply, bytes, connection }) => {
            if connection == Connection::Reusable {
                lease.give_back();
            }
            Finished {
                outcome: Outcome::Ok,
                bytes,
                batch_rows: None,
                cold_start,
                reply: Some(Box::new(reply)),
            }
        }
        Err(outcome) => Finished { cold_start, ..Finished::without_answer(outcome) },
    }
}

/// One call outside of the run, e.g. for metadata: its headers and body, or why there are none.
pub(crate) async fn ask(
    pool: &Pool,
    protocol: Protocol,
    message: &Message,
    limit: Duration,
) -> anyhow::Result<Bytes> {
    let exchange = async {
        let (response, lease) = pool.send(message.request()).await?;
        let answer = match Answer::read(response, Answers::Checked).await {
            Ok(answer) => answer,
            Err(outcome) => bail!("{outcome}"),
        };
        lease.give_back();
        match answer.status(protocol) {
            Outcome::Ok => Ok(answer.body),
            outcome => bail!("{outcome}: {}", String::from_utf8_lossy(&answer.body)),
        }
    };
    tokio::time::timeout(limit, exchange).await.context("no answer in time")?
}

/// A response read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    trailers: Option<HeaderMap>,
    bytes: u64,
    /// Empty when answers are not looked at.
    body: Bytes,
}

impl Answer {
    async fn read(response: Response<Incoming>, answers: Answers) -> Result<Self, Outcome> {
        let (head, mut incoming) = response.into_parts();
        let mut answer =
            Self { status: head.status, headers: head.headers, trailers: None, bytes: 0, body: Bytes::new() };
        let mut kept = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            match frame.map_err(|_| Outcome::BrokenOff)?.into_data() {
                Ok(data) => {
                    answer.bytes += data.len() as u64;
                    if answers == Answers::Checked && kept.len() + data.len() > RESPONSE_MAX {
                        return Err(Outcome::BadResponse);
                    }
                    if answers == Answers::Checked {
                        kept.extend_from_slice(&data);
                    }
                }
                Err(frame) => answer.trailers = frame.into_trailers().ok(),
            }
        }
        answer.body = kept.freeze();
        Ok(answer)
    }

    fn outcome(&self, rules: &Rules, message: &Message) -> Outcome {
        let status = self.status(rules.protocol);
        let unchecked = rules.answers == Answers::Ignored || message.expected.is_empty();
        if !status.is_ok()
            || unchecked
            || check::agrees(rules.protocol, &self.headers, &self.body, &message.expected)
        {
            return status;
        }
        Outcome::WrongAnswer
    }

    fn status(&self, protocol: Protocol) -> Outcome {
        if !self.status.is_success() {
            return Outcome::http(self.status, &self.headers);
        }
        if !protocol.is_grpc() {
            return Outcome::Ok;
        }
        // A call that fails at once has its status in the head, any other in the trailers.
        let places = [self.trailers.as_ref(), Some(&self.headers)];
        let place = places.into_iter().flatten().find(|place| place.contains_key("grpc-status"));
        let code = place.and_then(|place| place.get("grpc-status")?.to_str().ok()?.parse::<u16>().ok());
        match (code, place) {
            (Some(0), _) => Outcome::Ok,
            (Some(code), Some(place)) => {
                Outcome::Grpc { code, reason: reason(place).or_else(|| reason(&self.headers)) }
            }
            _ => Outcome::BadResponse,
        }
    }

    fn number(&self, header: &str) -> Option<u32> {
        self.headers.get(header)?.to_str().ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(
        headers: &[(&'static str, &'static str)],
        trailers: Option<&[(&'static str, &'static str)]>,
    ) -> Answer {
        let map = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
                .collect::<HeaderMap>()
        };
        Answer {
            status: StatusCode::OK,
            headers: map(headers),
            trailers: trailers.map(map),
            bytes: 0,
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_grpc_status_is_found_in_trailers_and_in_a_head_alone() {
        let ok = answer(&[], Some(&[("grpc-status", "0")]));
        assert_eq!(ok.status(Protocol::V2Grpc), Outcome::Ok);
        let refused = answer(&[("grpc-status", "8"), ("x-tidegate-reason", "queue_full")], None);
        let expected = Outcome::Grpc { code: 8, reason: Some("queue_full".into()) };
        assert_eq!(refused.status(Protocol::V2Grpc), expected);
        assert_eq!(answer(&[], None).status(Protocol::V2Grpc), Outcome::BadResponse);
    }

    #[test]
    fn a_deadline_is_written_as_the_protocol_wants_it_and_never_as_zero() {
        let (name, value) = deadline_header(Protocol::V2Grpc, Duration::from_millis(1500));
        assert_eq!((name.as_str(), value.as_bytes()), ("grpc-timeout", &b"1500m"[..]));
        let (name, value) = deadline_header(Protocol::V2, Duration::from_micros(10));
        assert_eq!((name.as_str(), value.as_bytes()), ("x-request-timeout-ms", &b"1"[..]));
        let (_, longest) = deadline_header(Protocol::V2Grpc, Duration::from_secs(10_000_000));
        assert!(longest.len() <= 9);
    }
}
