//! A run of chat completions from its arguments.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use arrivals::Schedule;

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

/// Tokens of each call of a trace, in the order of the arrivals, where it tells those of prompts and of answers.
pub(super) fn tokens(schedule: &Schedule) -> Option<Arc<[Tokens]>> {
    let Schedule::Listed(calls) = schedule else { return None };
    let told = calls.iter().any(|call| call.prompt > 0) && calls.iter().any(|call| call.output > 0);
    told.then(|| calls.iter().map(|call| Tokens { prompt: call.prompt, output: call.output }).collect())
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

#[cfg(test)]
mod tests {
    use arrivals::trace::{Replay, parse};

    use super::*;

    const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:47.6805900,396,109\n2023-11-16 18:15:50.6805900,879,0\n";

    #[test]
    fn the_tokens_of_a_trace_are_those_of_its_calls_and_need_both_columns() {
        let told = |text: &str, replay| {
            let calls = tokens(&parse(text, replay).unwrap())?;
            Some(calls.iter().map(|call| (call.prompt, call.output)).collect::<Vec<_>>())
        };
        assert_eq!(told(AZURE, Replay::AS_IT_IS).unwrap(), [(374, 44), (396, 109), (879, 0)]);
        let later = Replay { from: 0.5, scale: 2.0, ..Replay::AS_IT_IS };
        assert_eq!(told(AZURE, later).unwrap(), [(396, 109), (396, 109), (879, 0), (879, 0)]);
        for text in
            ["t,ContextTokens\n1,2\n", "t,GeneratedTokens\n1,2\n", "t\n1\n", "0,9,1,,1,1\n9,9,1,,1,1\n"]
        {
            assert_eq!(told(text, Replay::AS_IT_IS), None, "{text:?}: one column of two is none");
        }
    }
}
