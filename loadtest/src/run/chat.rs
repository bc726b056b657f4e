//! A run of chat completions from its arguments.

use std::sync::Arc;

use anyhow::{Context as _, ensure};

use crate::{
    chat::{
        length::{Length, Tokens},
        record::Objective,
        reply::Delivery,
        session::{Request, Sessions, Shape},
        stalled::{self, StalledReader},
    },
    cli::{ChatArgs, RunArgs},
    message::{Call, Message},
    target::{Places, Target},
};

pub(super) fn delivery(args: &ChatArgs) -> Delivery {
    if args.stream { Delivery::Stream } else { Delivery::Whole }
}

pub(super) fn objective(args: &RunArgs) -> Objective {
    Objective {
        latency: args.limits.slo.or(args.limits.deadline),
        first_token: args.chat.slo_ttft,
        per_token: args.chat.slo_tpot,
    }
}

/// The sessions of the run; `traced` is what the trace says of its calls.
pub(super) fn sessions(
    args: &RunArgs,
    call: &Call<'_>,
    traced: Option<Arc<[Tokens]>>,
) -> anyhow::Result<Sessions> {
    let request = request(args)?;
    Sessions::new(Message::chat(call)?, &request, shape(args, traced))
}

fn request(args: &RunArgs) -> anyhow::Result<Request> {
    Ok(Request {
        model: args.call.model.clone().context("--model NAME is missing")?,
        delivery: delivery(&args.chat),
        tenant: args.chat.tenant.clone(),
        tier: args.chat.service_tier.clone(),
    })
}

fn shape(args: &RunArgs, traced: Option<Arc<[Tokens]>>) -> Shape {
    let chat = &args.chat;
    Shape {
        prompt: chat.prompt_tokens,
        output: chat.output_tokens,
        traced,
        turns: chat.turns,
        think: chat.think,
        shared_prefix: chat.shared_prefix,
        groups: chat.prefix_groups,
        session_header: chat.session_header.clone(),
        seed: args.load.seed,
    }
}

/// Opens the streams that nobody reads; they stay so until what is given is dropped.
pub(super) async fn stalled(
    args: &RunArgs,
    call: &Call<'_>,
    target: &Target,
) -> anyhow::Result<Vec<StalledReader>> {
    if args.chat.stalled == 0 {
        return Ok(Vec::new());
    }
    ensure!(!args.call.http2, "stalled readers speak HTTP/1.1: with HTTP/2 they would share connections");
    let shape = Shape {
        prompt: Length::Fixed(1),
        output: Length::Fixed(args.chat.stalled_tokens),
        // Others than the run's.
        seed: args.load.seed.wrapping_add(1),
        ..shape(args, None)
    };
    let sessions = Sessions::new(Message::chat(call)?, &request(args)?, shape)?;
    let messages = (0..args.chat.stalled).filter_map(|number| sessions.session(number).next_turn()).collect();
    let places = Places::new(target, args.limits.addresses.as_deref());
    stalled::open(&places, messages, args.limits.timeout).await
}
