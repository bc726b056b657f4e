//! The OpenAI surface: bodies go to the engine as they came, but for a question for the usage where a stream would
//! not tell it, and answers come back as they came, piece by piece where they are streamed.

mod embeddings;
mod relay;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, LazyLock},
};

use bytes::{Bytes, BytesMut};
use convert::openai::{self, Endpoint, IncludeUsage, Peek, UsageFrame};
use http::{HeaderMap, HeaderValue, Response, header, request::Parts};
use hyper::body::Incoming;
use pipeline::{
    chat::{Affinity, Chat, Delivery, Usage},
    request::{Payload, Reply},
};
use tokio::time::Instant;

use self::relay::Relay;
use super::{forwarded, media, receive, returned};
use crate::{
    frontend::{
        body::Body,
        call::{Call, Caller, Generated, Job},
        deadline::Patience,
        intake::Received,
    },
    models::{ChatTerms, Deadlines, Model},
    status::{Failure, Situation, quote},
};

const MEDIA: [&str; 1] = ["application/json"];

/// The time for a body to come, as long as nobody knows which model it is for.
const READ_FOR: Deadlines = Deadlines {
    default: std::time::Duration::from_secs(300),
    max: std::time::Duration::from_secs(3600),
    cold_start: std::time::Duration::ZERO,
};

/// Random for each process, so that nobody outside can find two sessions that collide.
static SESSION_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

pub(super) async fn answer(
    call: &mut Call,
    head: &Parts,
    endpoint: Endpoint,
    body: &mut Incoming,
) -> Result<Response<Body>, Failure> {
    let patience = Patience::of(&head.headers, call.started())?;
    media::check(&head.headers, &MEDIA)?;
    let received = receive(call, head, body, patience.deadline(READ_FOR)?).await?;
    let peek = openai::peek(&received.body, endpoint)?;
    let model = call.find_model(&peek.model)?;
    let Some(terms) = model.chat_terms() else {
        let sentence = format!("model {} is not served over the OpenAI protocol", quote(&peek.model));
        return Err(Failure::new(Situation::Unsupported, sentence));
    };
    let deadline = patience.deadline(model.deadlines())?;
    let asked = Asked { model: &model, terms, head, endpoint, peek, deadline };
    match embeddings::rows(&asked, &received) {
        Some(inference) => asked.embed(call, received, inference).await,
        None => asked.hand_on(call, received).await,
    }
}

/// A call whose body was looked into.
struct Asked<'a> {
    model: &'a Model,
    terms: &'a ChatTerms,
    head: &'a Parts,
    endpoint: Endpoint,
    peek: Peek,
    deadline: Instant,
}

impl Asked<'_> {
    async fn hand_on(self, call: &mut Call, received: Received) -> Result<Response<Body>, Failure> {
        let caller = Caller { tenant: self.tenant(call), chat: self.chat(call).map(Arc::new) };
        let job = self.job(received);
        let answer = call.run_for(self.model, &self.head.headers, job, caller).await?;
        match answer.reply {
            Reply::Stream(reply) => {
                let relay = Relay::new(call.hand_over(), answer.run, reply.rest, self.relayed());
                Ok(streamed(&reply.headers, relay.begin_with(reply.first)))
            }
            Reply::Opaque(reply) => {
                if let Some(mut run) = answer.run {
                    let usage = openai::usage_of(&reply.body).map(told);
                    if let Some(usage) = usage {
                        run.used(usage);
                    }
                    call.generated(Generated { usage, ttft: None });
                    run.completed();
                }
                Ok(returned(reply))
            }
            Reply::Tensors(_) => Err(Failure::internal()),
        }
    }

    fn job(&self, received: Received) -> Job {
        let mut opaque = forwarded(self.head, self.body(received.body));
        if let Some(credential) = self.head.headers.get(header::AUTHORIZATION) {
            opaque.headers.insert(header::AUTHORIZATION, credential.clone());
        }
        opaque.streamed = self.peek.stream;
        Job {
            payload: Payload::Opaque(opaque),
            deadline: self.deadline,
            class: self.peek.class.unwrap_or_default(),
            charge: received.charge,
        }
    }

    fn body(&self, body: Bytes) -> Bytes {
        if !matches!(self.peek.usage, IncludeUsage::Missing(_)) {
            return body;
        }
        let parts = openai::with_usage(&self.peek, body);
        let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
        parts.iter().for_each(|part| joined.extend_from_slice(part));
        joined.freeze()
    }

    /// What generates tokens; the others are calls like any.
    fn chat(&self, call: &Call) -> Option<Chat> {
        if matches!(self.endpoint, Endpoint::Embeddings | Endpoint::Rerank) {
            return None;
        }
        let first_piece_by = call.started() + self.terms.first_token;
        let choices = self.peek.choices.max(1);
        Some(Chat {
            prompt_tokens: self.peek.prompt_tokens_estimate,
            output_tokens_max: self.peek.output_tokens_max.map(|most| most.saturating_mul(choices)),
            affinity: Affinity { session: self.session(), prefix: self.peek.prefix.blocks().to_vec() },
            delivery: if self.peek.stream { Delivery::Streamed { first_piece_by } } else { Delivery::Whole },
        })
    }

    fn session(&self) -> Option<u64> {
        let named = self.head.headers.get(&self.terms.session_header).map(HeaderValue::as_bytes);
        let named = named.or(self.peek.session.as_deref().map(str::as_bytes))?;
        Some(SESSION_KEY.hash_one(named))
    }

    /// Whose call it is: that of the credential, or without one that of the user it names. Of a credential only a
    /// hash is kept.
    fn tenant(&self, call: &Call) -> Arc<str> {
        let credential = self.head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        match credential.or(self.peek.user.as_deref().map(str::as_bytes)) {
            Some(name) => format!("{:016x}", SESSION_KEY.hash_one(name)).into(),
            None => call.nobody(),
        }
    }

    fn relayed(&self) -> relay::Terms {
        let was_asked_by_us = matches!(self.peek.usage, IncludeUsage::Missing(_));
        relay::Terms {
            dialect: match self.endpoint {
                Endpoint::Responses => openai::Dialect::Responses,
                _ => openai::Dialect::Completions,
            },
            usage: if was_asked_by_us { UsageFrame::Strip } else { UsageFrame::Keep },
            ends: self.deadline,
            between: self.terms.between_tokens,
        }
    }
}

/// What an engine counted, in the pipeline's words.
fn told(usage: openai::Usage) -> Usage {
    Usage { prompt_tokens: usage.prompt_tokens, output_tokens: usage.completion_tokens }
}

fn streamed(headers: &HeaderMap, relay: Relay) -> Response<Body> {
    let mut response = Response::new(Body::stream(relay));
    let media = headers.get(header::CONTENT_TYPE).cloned();
    let media = media.unwrap_or(HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
