//! The API as a `tower::Service`: from a request through log, faults and accounts to its answer.

use std::{
    future::{Future, pending},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, sleep};

use crate::{
    accounts::Access,
    answer::{self, Asked},
    body::Body,
    cluster::{Cluster, broken},
    faults::Fault,
    log::Call,
    refusal::Refusal,
    route::{Query, Route, Target, Verb, route, verb},
};

/// As the real server.
const BODY_MAX: usize = 3 * 1024 * 1024;

/// A client's way to the cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ApiService {
    cluster: Cluster,
    caller: Option<Arc<str>>,
    account: Option<Arc<str>>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl ApiService {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, caller: None, account: None }
    }

    /// The name by which faults and the log know the process that calls through this.
    #[must_use]
    pub fn caller(mut self, caller: &str) -> Self {
        self.caller = Some(caller.into());
        self
    }

    /// The account of calls without a bearer token.
    #[must_use]
    pub fn account(mut self, account: &str) -> Self {
        self.account = Some(account.into());
        self
    }

    async fn answer<B>(self, request: Request<B>) -> Result<Response<Body>, io::Error>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        if self.cluster.is_down() {
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused by the server"));
        }
        let mut control = self.cluster.control();
        let breaks = control.borrow().breaks;
        tokio::select! {
            answer = self.serve(&parts, body) => answer,
            _ = control.wait_for(|control| control.breaks != breaks) => Err(broken()),
        }
    }

    async fn serve<B>(&self, parts: &Parts, body: B) -> Result<Response<Body>, io::Error>
    where
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let collected = Limited::new(body, BODY_MAX).collect().await;
        let body = match collected {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Ok(answer::refuse(&Refusal::too_large(BODY_MAX)));
            }
            Err(error) => return Err(io::Error::other(error)),
        };
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let route = route(parts.uri.path());
        let account = self.identify(&parts.headers);
        let call = self.call(parts, &route, &query, (account.as_deref().unwrap_or_default(), body));
        let ticket = self.cluster.log().record(call.clone());
        let struck = self.cluster.faults().strike(&call);
        if let Some(Fault::Delay(time)) = struck {
            sleep(time).await;
        }
        match &struck {
            Some(Fault::Hang) => pending().await,
            Some(Fault::Drop) => return Err(broken()),
            _ => {}
        }
        let answer = match (&struck, account) {
            (Some(Fault::Refuse(refusal)), _) => answer::refuse(refusal),
            (_, Err(refusal)) => answer::refuse(&refusal),
            (_, Ok(_)) => self.perform(parts, route, query, call).await,
        };
        match struck {
            Some(Fault::LoseReply) => return Err(broken()),
            Some(Fault::LoseReplyAndHang) => pending().await,
            _ => {}
        }
        self.cluster.log().answered(ticket, answer.status().as_u16());
        Ok(answer)
    }

    fn identify(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let authorization = text(headers, &header::AUTHORIZATION);
        self.cluster.accounts().identify(authorization, self.account.as_deref())
    }

    fn call(&self, parts: &Parts, route: &Route, query: &Query, (account, body): (&str, Bytes)) -> Call {
        let agent = text(&parts.headers, &header::USER_AGENT).unwrap_or_default().to_owned();
        let caller = self.caller.as_deref().unwrap_or_else(|| answer::product(&agent)).to_owned();
        let mut call = Call {
            at: Instant::now(),
            account: account.to_owned(),
            caller,
            agent,
            verb: Verb::Get,
            resource: parts.uri.path().to_owned(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            body,
            code: None,
        };
        if let Route::Resource(target) = route {
            call.verb = verb(&parts.method, target, query).unwrap_or(Verb::Get);
            call.resource = resource(target);
            call.subresource.clone_from(&target.subresource);
            call.namespace = target.namespace.clone().unwrap_or_default();
            call.name = target.name.clone().or_else(|| selected_name(query)).unwrap_or_default();
        }
        call
    }

    async fn perform(&self, parts: &Parts, route: Route, query: Query, call: Call) -> Response<Body> {
        let target = match route {
            Route::Page(segments) => return answer::page(&self.cluster, &segments),
            Route::Resource(target) => target,
        };
        let Some(verb) = verb(&parts.method, &target, &query) else {
            return answer::plain(StatusCode::METHOD_NOT_ALLOWED, "");
        };
        let access = Access::new(verb, &target, &call.name);
        if let Err(refusal) = self.cluster.accounts().check(&call.account, &access) {
            return answer::refuse(&refusal);
        }
        let asked = Asked { verb, target, query, headers: &parts.headers, call: Arc::new(call) };
        answer::answer(&self.cluster, asked).await.unwrap_or_else(|refusal| answer::refuse(&refusal))
    }
}

fn resource(target: &Target) -> String {
    if target.group.is_empty() {
        target.plural.clone()
    } else {
        format!("{}.{}", target.plural, target.group)
    }
}

fn selected_name(query: &Query) -> Option<String> {
    let fields = query.text("fieldSelector").split(',');
    fields.filter_map(|field| field.strip_prefix("metadata.name=")).next().map(|name| name.replace('=', ""))
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}
