//! One run from the arguments to the report.

mod chat;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use arrivals::{
    Schedule,
    profile::Profile,
    trace::{self, Replay},
};
use bytes::Bytes;
use http::{Method, Uri};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    call::{Answers, Rules, ask},
    chat::length::Tokens,
    cli::{CallArgs, LoadArgs, RunArgs},
    connection::{HttpVersion, Pool},
    generate::{Load, Plan, Requests, Shard},
    message::{Call, Message, Protocol},
    meter::Meter,
    process::Clocks,
    progress::{Progress, Verbosity},
    record::Record,
    report::{Report, Results, Setup},
    source,
    target::{Places, Target},
};

/// Time for all shards to be ready before the first arrival.
const LEAD: Duration = Duration::from_millis(100);

/// How long the model's metadata may take; a replica may have to start for it.
const METADATA_TIMEOUT: Duration = Duration::from_secs(120);

const DURATION: Duration = Duration::from_secs(10);

/// So much longer than on average may arrivals take whose number is limited and whose time is not.
const COUNTED: f64 = 2.0;

/// Connections for chat completions over HTTP/1.1, each of which holds one for many seconds.
const CHAT_CONNECTIONS: usize = 10_000;

/// Runs the load and gives its report. `stop` ends it early, with a report of what was measured until then.
pub(crate) async fn run(url: &Uri, args: &RunArgs, stop: CancellationToken) -> anyhow::Result<Report> {
    let target = Target::resolve(url).await?;
    let (load, traced) = load(&args.load)?;
    ensure!(
        args.load.warmup < load.length() || args.load.warmup.is_zero(),
        "the warm-up is as long as the run"
    );
    let http =
        if args.call.http2 || args.call.protocol.is_grpc() { HttpVersion::Http2 } else { HttpVersion::Http1 };
    let headers = args.call.headers();
    let call = Call {
        protocol: args.call.protocol,
        http,
        target: &target,
        model: args.call.model.as_deref().unwrap_or_default(),
        headers: &headers,
    };
    let requests = match call.protocol {
        Protocol::Chat => Requests::Sessions(Box::new(chat::sessions(args, &call, traced)?)),
        _ => Requests::Encoded(messages(args, &call).await?),
    };
    let (shards, connections) = sizes(args, &load, http)?;
    let objective = chat::objective(args);
    let millis = |limit: Option<Duration>| limit.map(|limit| limit.as_secs_f64() * 1e3);
    let setup = Setup {
        url: url.to_string(),
        protocol: args.call.protocol,
        load: describe(&args.load, &load),
        seed: args.load.seed,
        threads: shards,
        connections,
        request_bytes: requests.bytes(),
        checked: args.call.check.is_some(),
        slo_ms: millis(objective.latency),
        slo_ttft_ms: millis(objective.first_token),
        slo_tpot_ms: millis(objective.per_token),
        stalled: args.chat.stalled,
    };
    // A burst is sent as fast as can be, and a closed loop has no schedule: neither can lag.
    let scheduled =
        matches!(load, Load::Open(Schedule::Profile(_) | Schedule::Listed(_) | Schedule::Counted(_)));
    let lag_max = scheduled.then_some(args.limits.max_lag);
    let plan = Arc::new(Plan {
        load,
        requests,
        rules: rules(args),
        seed: args.load.seed,
        shards,
        outstanding_max: args.limits.outstanding.div_ceil(shards),
        warm_up: args.load.warmup,
    });
    let stalled = chat::stalled(args, &call, &target).await?;
    let results = drive(args, &plan, http, &target, connections, stop).await?;
    drop(stalled);
    Ok(Report::new(setup, results, lag_max))
}

fn rules(args: &RunArgs) -> Rules {
    Rules {
        protocol: args.call.protocol,
        timeout: args.limits.timeout,
        deadline: args.limits.deadline,
        answers: if args.call.check.is_some() { Answers::Checked } else { Answers::Ignored },
        delivery: chat::delivery(&args.chat),
    }
}

/// When requests are sent, and how many tokens each has where a trace says so.
fn load(args: &LoadArgs) -> anyhow::Result<(Load, Option<Arc<[Tokens]>>)> {
    if let Some(clients) = args.clients {
        ensure!(clients > 0, "no clients");
        return Ok((Load::Closed { clients, duration: args.duration.unwrap_or(DURATION) }, None));
    }
    if let Some(requests) = args.burst {
        ensure!(requests > 0, "an empty burst");
        return Ok((Load::Open(Schedule::Burst(requests)), None));
    }
    let (schedule, tokens) = schedule(args)?;
    let Some(sessions) = args.sessions else { return Ok((Load::Open(schedule), tokens)) };
    let first = schedule.first(sessions, args.seed);
    ensure!(
        first.arrivals(args.seed).next().is_some(),
        "no session: it takes a rate, a duration and --sessions above 0"
    );
    Ok((Load::Open(first), tokens))
}

fn schedule(args: &LoadArgs) -> anyhow::Result<(Schedule, Option<Arc<[Tokens]>>)> {
    // Arrivals that are counted take as long as they take, unless there is a limit as well.
    let counted =
        || Some(Duration::try_from_secs_f64(COUNTED * args.sessions? as f64 / args.rate).ok()? + DURATION);
    let duration = args.duration.or_else(counted).unwrap_or(DURATION);
    if let Some(path) = &args.trace {
        let replay = Replay {
            speed: args.trace_speed,
            scale: args.trace_scale,
            from: args.trace_from.unwrap_or_default().as_secs_f64(),
            // The duration is that of the replay, so that much more of the trace is needed.
            span: args.duration.map_or(f64::INFINITY, |duration| duration.as_secs_f64() * args.trace_speed),
            seed: args.seed,
            ..Replay::AS_IT_IS
        };
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let schedule = trace::parse(&text, replay).with_context(|| format!("{}", path.display()))?;
        let tokens = chat::tokens(&schedule);
        return Ok((schedule, tokens));
    }
    let (rate, spacing) = (args.rate, args.spacing);
    let profile = match (&args.bursts, &args.steps, &args.ramp, args.day) {
        (Some(bursts), ..) => Profile::bursts(rate, *bursts, duration, spacing)?,
        (_, Some(steps), ..) => Profile::steps(steps, spacing)?,
        (_, _, Some(ramp), _) => Profile::ramp(*ramp, duration, spacing)?,
        (.., true) => Profile::day(rate, duration, spacing)?,
        _ => Profile::constant(rate, duration, spacing)?,
    };
    Ok((Schedule::Profile(Arc::new(profile)), None))
}

fn describe(args: &LoadArgs, load: &Load) -> String {
    let length = humantime::format_duration(Duration::from_millis(
        u64::try_from(load.length().as_millis()).unwrap_or(u64::MAX),
    ));
    match load {
        Load::Closed { clients, .. } => format!("closed loop, {clients} clients, {length}"),
        Load::Open(Schedule::Burst(requests)) => format!("{requests} at once"),
        Load::Open(Schedule::Listed(calls)) if args.trace.is_none() => {
            format!("{} arrivals at {}/s {:?}", calls.len(), args.rate, args.spacing)
        }
        Load::Open(Schedule::Listed(calls)) => format!("trace of {} calls in {length}", calls.len()),
        Load::Open(Schedule::Profile(_) | Schedule::Counted(_)) => {
            match (&args.bursts, &args.steps, &args.ramp, &args.trace) {
                (Some(bursts), ..) => format!("{}/s {bursts:?}, {length}", args.rate),
                (_, Some(steps), ..) => format!("{steps:?}, {length}"),
                (_, _, Some(ramp), _) => format!("{ramp:?}, {length}"),
                (.., Some(trace)) => format!("bins of {}, {length}", trace.display()),
                _ if args.day => format!("a day with a peak of {}/s in {length}", args.rate),
                _ => format!("{}/s {:?}, {length}", args.rate, args.spacing),
            }
        }
    }
}

/// Threads, and connections in all.
fn sizes(args: &RunArgs, load: &Load, http: HttpVersion) -> anyhow::Result<(usize, usize)> {
    let (limits, chat) = (&args.limits, args.call.protocol == Protocol::Chat);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = limits.threads.unwrap_or((processors / 2).max(1));
    let connections = limits.connections.unwrap_or(match (load, http) {
        (Load::Closed { clients, .. }, HttpVersion::Http1) => *clients,
        (Load::Open(Schedule::Burst(requests)), HttpVersion::Http1) => *requests,
        (Load::Open(_), HttpVersion::Http1) if chat => CHAT_CONNECTIONS,
        (Load::Open(_), HttpVersion::Http1) => 256,
        (Load::Open(Schedule::Burst(requests)), HttpVersion::Http2) => requests.div_ceil(256).max(4),
        (Load::Closed { .. } | Load::Open(_), HttpVersion::Http2) => 4,
    });
    ensure!(threads > 0 && connections > 0, "at least one thread and one connection are needed");
    Ok((threads.min(connections), connections))
}

async fn messages(args: &RunArgs, call: &Call<'_>) -> anyhow::Result<Vec<Message>> {
    let CallArgs { protocol, model, input, rows, data, check, body_file, method, .. } = &args.call;
    if *protocol == Protocol::Raw {
        let body = match body_file {
            Some(path) => {
                Bytes::from(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => Bytes::new(),
        };
        let usual = if body_file.is_some() { Method::POST } else { Method::GET };
        return Ok(vec![Message::raw(call, method.clone().unwrap_or(usual), body)?]);
    }
    ensure!(model.is_some(), "--model NAME is missing (or use --protocol raw)");
    let recipe = source::Recipe {
        rows: *rows,
        samples: data.as_deref(),
        expect: check.as_deref(),
        seed: args.load.seed,
    };
    if !input.is_empty() {
        return source::messages(call, input, recipe);
    }
    let pool = Pool::new(call.http, Places::new(call.target, args.limits.addresses.as_deref()), 1);
    let body =
        ask(&pool, *protocol, &Message::metadata(call)?, METADATA_TIMEOUT).await.with_context(|| {
            format!("cannot read the metadata of {:?} (give --input to do without)", call.model)
        })?;
    source::messages(call, &source::metadata(*protocol, &body)?.inputs, recipe)
}

async fn drive(
    args: &RunArgs,
    plan: &Arc<Plan>,
    http: HttpVersion,
    target: &Target,
    connections: usize,
    stop: CancellationToken,
) -> anyhow::Result<Results> {
    let start = Instant::now() + LEAD;
    let objective = chat::objective(args);
    let shards: Vec<_> = (0..plan.shards)
        .map(|index| {
            // The first shards take what does not divide evenly.
            let connections = connections / plan.shards + usize::from(index < connections % plan.shards);
            let places = Places::new(target, args.limits.addresses.as_deref());
            let pool = Pool::new(http, places, connections);
            Arc::new(Shard {
                index,
                plan: Arc::clone(plan),
                pool,
                meter: Meter::new(objective),
                start,
                stop: stop.clone(),
            })
        })
        .collect();
    let mut running = JoinSet::new();
    for shard in &shards {
        let shard = Arc::clone(shard);
        running.spawn_blocking(move || shard.run());
    }
    let verbosity = if args.output.quiet { Verbosity::Quiet } else { Verbosity::Shown };
    let mut progress = Progress::new(shards.clone(), verbosity);
    let window = start + plan.warm_up;
    let usage = tokio::select! {
        usage = measured(&mut running, &args.output.cpu_of, window) => usage?,
        () = progress.watch(start) => bail!("the progress display never ends by itself"),
    };
    let seconds = progress.finish();
    let mut record = Record::new(objective);
    for shard in &shards {
        shard.meter.add_record(&mut record);
    }
    let last_end = shards.iter().filter_map(|shard| shard.meter.last_end()).max().unwrap_or(start);
    let planned_end = start + plan.load.length();
    let offered_end = if stop.is_cancelled() { last_end.min(planned_end) } else { planned_end };
    Ok(Results {
        record,
        measured: last_end.max(offered_end).saturating_duration_since(window),
        offered: offered_end.saturating_duration_since(window),
        connections_opened: shards.iter().map(|shard| shard.pool.opened()).sum(),
        usage,
        seconds,
    })
}

/// Waits for all shards, and gives what the processes used since the end of the warm-up.
async fn measured(
    running: &mut JoinSet<std::io::Result<()>>,
    processes: &[u32],
    window: Instant,
) -> anyhow::Result<Vec<crate::process::Usage>> {
    sleep_until(window).await;
    let before = Clocks::read(processes)?;
    while let Some(shard) = running.join_next().await {
        shard.context("a sending thread panicked")?.context("a sending thread failed")?;
    }
    Ok(Clocks::read(processes)?.since(&before))
}
