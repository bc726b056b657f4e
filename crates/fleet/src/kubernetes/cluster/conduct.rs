//! The one way out: each request is sent once, bounded in time and size, and counted.
//!
//! An error answer is completed on its way in: kube drops the `Retry-After` header and never knew what was asked
//! for, so both are noted in the status that it does keep.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use kube::{
    Client,
    client::Body,
    core::{
        Status,
        response::{StatusCause, StatusDetails, StatusSummary},
    },
};
use metrics::counter;
use tokio::time::timeout;
use tower::{BoxError, Service, service_fn};

use super::{
    call::Call,
    error::{ASKED_FOR, ApiError},
    hearing::Ear,
};

/// Far above a page of the largest objects there are.
const ANSWER_MAX: usize = 64 << 20;
const MESSAGE_MAX: usize = 300;

type Answer = Response<UnsyncBoxBody<bytes::Bytes, BoxError>>;

#[derive(Clone)]
pub(super) struct Conduct {
    pub(super) client: Client,
    pub(super) patience: Duration,
    pub(super) ear: Arc<Ear>,
}

impl Conduct {
    pub(super) fn service(
        self,
    ) -> impl Service<
        Request<Body>,
        Response = Answer,
        Error = BoxError,
        Future = impl Future<Output = Result<Answer, BoxError>> + Send + 'static,
    > + Send
    + 'static {
        service_fn(move |request| {
            let conduct = self.clone();
            async move { conduct.send(request).await }
        })
    }

    async fn send(self, request: Request<Body>) -> Result<Answer, BoxError> {
        let call = Call::of(&request);
        let answer = timeout(self.patience, self.answer(&call, request)).await;
        let answer = answer.unwrap_or(Err(ApiError::Late(self.patience)));
        let code = match &answer {
            Ok(answer) => answer.status().as_str().to_owned(),
            Err(ApiError::Late(_)) => "timeout".to_owned(),
            Err(_) => "unreachable".to_owned(),
        };
        // By name at each call: these are few, and their kinds are known only once they happen.
        let kind = call.kind;
        counter!("tidegate_apiserver_requests_total", "verb" => call.verb, "kind" => kind, "code" => code)
            .increment(1);
        match &answer {
            Ok(answer) if !answer.status().is_server_error() => self.ear.heard(),
            _ => self.ear.missed(),
        }
        Ok(answer?)
    }

    async fn answer(&self, call: &Call, request: Request<Body>) -> Result<Answer, ApiError> {
        let (mut head, body) = self.client.send(request).await?.into_parts();
        if call.watches() && head.status.is_success() {
            let ear = Arc::clone(&self.ear);
            let events = body.map_frame(move |frame| {
                ear.heard();
                frame
            });
            return Ok(Response::from_parts(head, events.map_err(Into::into).boxed_unsync()));
        }
        let broken = |error: BoxError| ApiError::unavailable(format!("its answer broke off: {error}"));
        let mut bytes = Limited::new(body, ANSWER_MAX).collect().await.map_err(broken)?.to_bytes();
        if head.status.is_client_error() || head.status.is_server_error() {
            let wait = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            bytes = complete(head.status, &bytes, wait, call).into();
            // It was that of the answer as it came.
            head.headers.remove(http::header::CONTENT_LENGTH);
        }
        Ok(Response::from_parts(head, Full::new(bytes).map_err(|never| match never {}).boxed_unsync()))
    }
}

/// The status that an error answer holds, or stands for, with what kube would lose.
fn complete(code: StatusCode, answer: &[u8], retry_after: Option<u32>, call: &Call) -> Vec<u8> {
    let parsed: Option<Status> = serde_json::from_slice(answer).ok();
    let mut status = parsed.filter(|status| !status.message.is_empty()).unwrap_or_else(|| {
        // From a proxy, a pod behind it, or a part of the API server that speaks plain text.
        Status { message: String::from_utf8_lossy(answer).trim().to_owned(), ..Status::default() }
    });
    status.status = Some(StatusSummary::Failure);
    status.code = code.as_u16();
    if let Some((end, _)) = status.message.char_indices().nth(MESSAGE_MAX) {
        status.message.truncate(end);
    }
    let details = status.details.get_or_insert_with(|| StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    });
    details.retry_after_seconds = details.retry_after_seconds.max(retry_after.unwrap_or(0));
    details.causes.push(StatusCause {
        reason: ASKED_FOR.to_owned(),
        message: call.to_string(),
        field: String::new(),
    });
    serde_json::to_vec(&status).unwrap_or_default()
}
