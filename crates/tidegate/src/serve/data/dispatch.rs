//! How a model's calls are dispatched, in the words of the pipeline and the gateway.

use std::sync::Arc;

use gateway::ChatTerms;
use http::HeaderName;
use pipeline::{Batching, chat};

use crate::config::{self, Objective, Protocol, Slo};

/// Most inputs of one request for embeddings that is made of several, where the configuration does not say.
const EMBEDDINGS_PER_CALL: u32 = 64;

/// The configuration of a model's pipeline.
pub(super) fn pipeline_config(config: &config::Model) -> pipeline::Config {
    pipeline::Config {
        model: Arc::clone(&config.name),
        batching: batching(config),
        queue: config.queue,
        concurrency: config.concurrency,
        idempotent: config.idempotent,
        slo: config.slo.response().latency,
        cold_start_timeout: config.cold_start_timeout,
        chat: chat(config),
    }
}

/// Calls that generate tokens are not merged. Requests for embeddings are, and that their inputs are independent of
/// each other needs no check: the protocol says so.
fn batching(config: &config::Model) -> Batching {
    match (config.protocol, config.slo, config.batching) {
        (Protocol::OpenAi, Slo::Chat { .. }, _) => Batching::Off,
        (Protocol::OpenAi, Slo::Latency(whole), Batching::Auto) => {
            Batching::Merge { max_rows: EMBEDDINGS_PER_CALL, max_hold: whole.latency / 10 }
        }
        (_, _, batching) => batching,
    }
}

/// How generations are dispatched. A model whose SLO is of whole answers may be asked for one all the same.
fn chat(config: &config::Model) -> Option<chat::Config> {
    let routing = config.routing.as_ref()?;
    let default = chat::Config::default();
    let target =
        |objective: Objective| chat::Target { latency: objective.latency, percentile: objective.quantile };
    let (ttft, tpot) = match config.slo {
        Slo::Chat { ttft, tpot } => (target(ttft), target(tpot)),
        Slo::Latency(whole) => (target(whole), default.tpot),
    };
    Some(chat::Config {
        ttft,
        tpot,
        prefix_affinity: routing.prefix_affinity,
        load_factor: routing.load_factor,
    })
}

/// What calls over the OpenAI protocol go by.
pub(super) fn chat_terms(config: &config::Model) -> Option<ChatTerms> {
    let (tokens, routing) = (config.deadline.tokens?, config.routing.as_ref()?);
    let session_header =
        HeaderName::try_from(&routing.session_header).expect("the configuration was checked");
    Some(ChatTerms { first_token: tokens.first, between_tokens: tokens.between, session_header })
}
