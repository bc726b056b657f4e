//! Calls that generate tokens: places at replicas, who gets them, and what is learned.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use pipeline::{
    Batching, CallError, Concurrency, Config, Error, Pipeline, Rejection,
    chat::{Affinity, Chat, Delivery, Run, Target, Usage},
    replica::{Call, Replica, ReplicaSet},
    request::{Answer, Class, Opaque, OpaqueReply, Payload, Reply, Request, StreamReply, Wire},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::{service_fn, util::BoxCloneSyncService};

use crate::server::{self, Server};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An engine whose tokens take as long as they do with so many generations at a time.
#[derive(Clone)]
struct Engine {
    ttft: Duration,
    tpot: Duration,
    tpot_each: Duration,
    tokens: u32,
    running: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    calls: Arc<Mutex<Vec<String>>>,
    refuses: Option<CallError>,
    slots: Option<Arc<Semaphore>>,
}

struct Place {
    running: Arc<AtomicU32>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Engine {
    fn new(tokens: u32) -> Self {
        Self {
            ttft: ms(100),
            tpot: ms(20),
            tpot_each: ms(1),
            tokens,
            running: Arc::default(),
            most: Arc::default(),
            calls: Arc::default(),
            refuses: None,
            slots: None,
        }
    }

    async fn answer(self, call: Call) -> Result<Reply, CallError> {
        let Payload::Opaque(opaque) = call.payload else { panic!("tests send bodies") };
        self.calls.lock().unwrap().push(String::from_utf8(opaque.body.to_vec()).unwrap());
        if let Some(error) = self.refuses {
            return Err(error);
        }
        let slot = match self.slots {
            Some(slots) => Some(slots.acquire_owned().await.unwrap()),
            None => None,
        };
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        let place = Place { running: Arc::clone(&self.running), _slot: slot };
        sleep(self.ttft).await;
        let token = Bytes::from_static(b"t");
        if !opaque.streamed {
            sleep(self.tpot * self.tokens).await;
            let (status, headers) = (http::StatusCode::OK, http::HeaderMap::new());
            return Ok(Reply::Opaque(OpaqueReply { status, headers, body: token }));
        }
        let (tokens, tpot, each) = (self.tokens, self.tpot, self.tpot_each);
        let rest = stream::unfold((1, place), move |(sent, place)| async move {
            if sent == tokens {
                return None;
            }
            sleep(tpot + each * place.running.load(Ordering::SeqCst)).await;
            Some((Ok(Bytes::from_static(b"t")), (sent + 1, place)))
        });
        Ok(Reply::Stream(StreamReply { headers: http::HeaderMap::new(), first: token, rest: rest.boxed() }))
    }

    fn replica(&self, id: &str) -> Replica {
        let engine = self.clone();
        let upstream = BoxCloneSyncService::new(service_fn(move |call| engine.clone().answer(call)));
        Replica { upstream, ..Server::new(0, 0).replica(id) }
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

fn config(concurrency: Concurrency) -> Config {
    let chat = pipeline::chat::Config {
        ttft: Target { latency: ms(2_000), percentile: 0.99 },
        tpot: Target { latency: ms(40), percentile: 0.95 },
        ..pipeline::chat::Config::default()
    };
    Config { batching: Batching::Off, concurrency, chat: Some(chat), ..server::config() }
}

fn start(config: Config, engines: &[Engine]) -> Pipeline {
    let pipeline = Pipeline::start(config);
    let replicas = engines.iter().enumerate().map(|(i, engine)| engine.replica(&format!("r{i}"))).collect();
    pipeline.set_replicas(ReplicaSet { replicas, batch_dimension: Some(true) });
    pipeline
}

fn chat(prefix: &[u64], first_piece_by: Duration) -> Chat {
    Chat {
        prompt_tokens: 100,
        output_tokens_max: None,
        affinity: Affinity { session: None, prefix: prefix.to_vec() },
        delivery: Delivery::Streamed { first_piece_by: Instant::now() + first_piece_by },
    }
}

fn request(body: &str, chat: Chat, class: Class) -> Request {
    let streamed = chat.delivery != Delivery::Whole;
    let opaque = Opaque {
        wire: Wire::Http,
        path: http::uri::PathAndQuery::from_static("/v1/chat/completions"),
        headers: http::HeaderMap::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        streamed,
    };
    Request {
        payload: Payload::Opaque(opaque),
        class,
        chat: Some(Arc::new(chat)),
        ..server::request(0, 1, Duration::from_secs(600))
    }
}

async fn ask(pipeline: &Pipeline, prefix: &[u64]) -> Result<Answer, Error> {
    pipeline.call(request("ask", chat(prefix, Duration::from_secs(60)), Class::Normal)).await
}

/// Takes a streamed answer to its end, as a gateway does.
async fn read(answer: Answer) -> u32 {
    let Reply::Stream(mut reply) = answer.reply else { panic!("a streamed answer") };
    let mut run: Box<Run> = answer.run.unwrap();
    run.received(1, Instant::now());
    let mut tokens = 1;
    while let Some(piece) = reply.rest.next().await {
        piece.unwrap();
        tokens += 1;
        run.received(1, Instant::now());
    }
    run.used(Usage { prompt_tokens: 100, output_tokens: u64::from(tokens) });
    run.completed();
    tokens
}

fn spawn_whole(pipeline: &Pipeline) -> JoinHandle<Result<u32, Error>> {
    let pipeline = pipeline.clone();
    tokio::spawn(async move { Ok(read(ask(&pipeline, &[]).await?).await) })
}

#[tokio::test(start_paused = true)]
async fn a_generation_keeps_its_place_until_its_last_token() {
    let engine = Engine::new(10);
    let pipeline = start(config(Concurrency::Fixed(1)), std::slice::from_ref(&engine));
    let begun = Instant::now();
    let first = ask(&pipeline, &[]).await.unwrap();
    assert_eq!(begun.elapsed(), ms(100), "the answer begins with the first token");
    let second = spawn_whole(&pipeline);
    sleep(ms(500)).await;
    assert_eq!((engine.calls(), pipeline.stats().in_flight_requests), (1, 1));
    assert_eq!(read(first).await, 10);
    assert_eq!(second.await.unwrap().unwrap(), 10);
    assert_eq!(engine.most.load(Ordering::SeqCst), 1);
    let stats = pipeline.stats();
    assert_eq!((stats.completions, stats.in_flight_requests, stats.in_flight_rows), (2, 0, 0));
    assert!(stats.replicas.iter().all(|replica| replica.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_frees_its_place_and_stops_the_engine() {
    let engine = Engine::new(1000);
    let pipeline = start(config(Concurrency::Fixed(1)), std::slice::from_ref(&engine));
    let answer = ask(&pipeline, &[]).await.unwrap();
    assert_eq!(engine.running.load(Ordering::SeqCst), 1);
    drop(answer);
    assert_eq!(engine.running.load(Ordering::SeqCst), 0);
    let stats = pipeline.stats();
    assert_eq!((stats.completions, stats.failures, stats.in_flight_requests), (0, 0, 0));
    assert_eq!(stats.replicas[0].in_flight, 0);
    ask(&pipeline, &[]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_streams() {
    let engine = Engine::new(50);
    let pipeline = start(config(Concurrency::Auto), std::slice::from_ref(&engine));
    let answer = ask(&pipeline, &[]).await.unwrap();
    pipeline.close();
    let drained = tokio::spawn({
        let pipeline = pipeline.clone();
        async move { pipeline.drained().await }
    });
    sleep(ms(10)).await;
    assert!(!drained.is_finished());
    read(answer).await;
    drained.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_cannot_begin_in_time_is_refused_or_ends_when_that_is_over() {
    let engine = Engine::new(100);
    let pipeline = start(config(Concurrency::Fixed(1)), std::slice::from_ref(&engine));
    for _ in 0..10 {
        read(ask(&pipeline, &[]).await.unwrap()).await;
    }
    // Ten generations have shown that each takes some two seconds.
    let _busy = ask(&pipeline, &[]).await.unwrap();
    let hasty = request("hasty", chat(&[], ms(500)), Class::Normal);
    let refused = pipeline.call(hasty).await.unwrap_err();
    assert!(matches!(refused, Error::Rejected(Rejection::PredictedLate { .. })), "{refused}");
    let silent = Engine { ttft: Duration::from_secs(3600), ..Engine::new(1) };
    let pipeline = start(config(Concurrency::Auto), &[silent]);
    let begun = Instant::now();
    let late = pipeline.call(request("late", chat(&[], ms(700)), Class::Normal)).await.unwrap_err();
    assert!(matches!(late, Error::DeadlineExceeded { .. }), "{late}");
    assert_eq!(begun.elapsed(), ms(700));
}

#[tokio::test(start_paused = true)]
async fn prompts_that_begin_alike_go_to_one_replica_until_it_is_busier_than_others() {
    let engines = [Engine::new(5), Engine::new(5), Engine::new(5)];
    let pipeline = start(config(Concurrency::Auto), &engines);
    for turn in 1..=4u64 {
        for session in [100, 200, 300, 400, 500] {
            let prefix: Vec<u64> = (0..turn).map(|block| session + block).collect();
            read(ask(&pipeline, &prefix).await.unwrap()).await;
        }
    }
    let calls: Vec<usize> = engines.iter().map(Engine::calls).collect();
    assert!(calls.iter().all(|calls| calls % 4 == 0), "no conversation has moved: {calls:?}");
    let mut open = Vec::new();
    for _ in 0..48 {
        open.push(ask(&pipeline, &[100, 101]).await.unwrap());
    }
    let in_flight: Vec<u32> = pipeline.stats().replicas.iter().map(|replica| replica.in_flight).collect();
    // 1.25 times the mean of 16.
    assert!(
        in_flight.iter().all(|calls| (8..=20).contains(calls)),
        "one prefix, and all take part: {in_flight:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_engine_with_the_least_work_is_taken_where_no_prompt_is_known() {
    let engines = [Engine::new(1000), Engine::new(1000)];
    let pipeline = start(config(Concurrency::Auto), &engines);
    let long = Chat { prompt_tokens: 30_000, ..chat(&[], Duration::from_secs(60)) };
    let _long = pipeline.call(request("long", long, Class::Normal)).await.unwrap();
    let mut short = Vec::new();
    for _ in 0..5 {
        short.push(ask(&pipeline, &[]).await.unwrap());
    }
    let mut in_flight: Vec<u32> = pipeline.stats().replicas.iter().map(|replica| replica.in_flight).collect();
    in_flight.sort_unstable();
    assert_eq!(in_flight, [1, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_low_class_leaves_places_to_others() {
    let engine = Engine::new(10_000);
    let pipeline = start(config(Concurrency::Fixed(10)), std::slice::from_ref(&engine));
    let mut open = Vec::new();
    for _ in 0..12 {
        let pipeline = pipeline.clone();
        let call = request("low", chat(&[], Duration::from_secs(60)), Class::Low);
        open.push(tokio::spawn(async move { pipeline.call(call).await }));
    }
    sleep(ms(1000)).await;
    assert_eq!(engine.running.load(Ordering::SeqCst), 8);
    let begun = Instant::now();
    ask(&pipeline, &[]).await.unwrap();
    assert_eq!(begun.elapsed(), ms(100), "it did not wait for a low one to end");
}

#[tokio::test(start_paused = true)]
async fn as_many_generate_at_a_time_as_keep_the_time_per_token() {
    let engine = Engine::new(64);
    let pipeline = start(config(Concurrency::Auto), std::slice::from_ref(&engine));
    let until = Instant::now() + Duration::from_secs(120);
    let clients: Vec<JoinHandle<()>> = (0..64)
        .map(|_| {
            let pipeline = pipeline.clone();
            tokio::spawn(async move {
                while Instant::now() < until {
                    match ask(&pipeline, &[]).await {
                        Ok(answer) => drop(read(answer).await),
                        // More ask than can begin in time.
                        Err(_) => sleep(ms(300)).await,
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep_until(until - Duration::from_secs(20)).await;
    // 20 ms and 1 ms for each: 40 ms with 20 at a time.
    let running = engine.running.load(Ordering::SeqCst);
    assert!((16..=20).contains(&running), "{running}");
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn at_three_times_the_capacity_most_of_it_begins_in_time() {
    // 16 at a time, each for 100 ms and 19 tokens of 36 ms: 20 a second.
    let engine = Engine::new(20);
    let pipeline = start(config(Concurrency::Fixed(16)), std::slice::from_ref(&engine));
    let mut calls = Vec::new();
    for _ in 0..60 * 60 {
        sleep(ms(1000) / 60).await;
        let pipeline = pipeline.clone();
        calls.push(tokio::spawn(async move {
            let arrived = Instant::now();
            let answer = ask(&pipeline, &[]).await.ok()?;
            let ttft = arrived.elapsed();
            read(answer).await;
            Some(ttft)
        }));
    }
    let mut begun = Vec::new();
    for call in calls {
        begun.extend(call.await.unwrap());
    }
    let in_time = begun.iter().filter(|ttft| **ttft <= ms(2_000)).count();
    assert!(in_time > 60 * 20 * 9 / 10, "{in_time} of 1,200");
    assert!(in_time * 100 >= begun.len() * 95, "{in_time} of {} that were admitted", begun.len());
}

#[tokio::test(start_paused = true)]
async fn what_breaks_before_it_has_begun_is_sent_elsewhere() {
    let broken = Engine { refuses: Some(CallError::Reset), ..Engine::new(5) };
    let good = Engine::new(5);
    let pipeline = start(config(Concurrency::Auto), &[broken.clone(), good]);
    for _ in 0..5 {
        assert_eq!(read(ask(&pipeline, &[]).await.unwrap()).await, 5);
    }
    assert!(broken.calls() >= 1);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_breaks_off_its_streams_is_left_alone() {
    let engines = [Engine::new(1000), Engine::new(1000)];
    let pipeline = start(config(Concurrency::Auto), &engines);
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(ask(&pipeline, &[]).await.unwrap());
    }
    let victim = 0;
    assert_eq!(pipeline.stats().replicas[victim].in_flight, 4);
    let before = engines[victim].calls();
    for mut answer in open {
        // Which of the two it is shows in whose count falls.
        let run = answer.run.take().unwrap();
        run.broke(&CallError::Reset);
    }
    let stats = pipeline.stats();
    assert!(stats.replicas.iter().any(|replica| replica.ejected), "{stats:?}");
    assert_eq!((stats.failures, stats.in_flight_requests), (8, 0));
    assert_eq!(engines[victim].calls(), before);
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_one_piece_is_counted_and_gives_its_place_back() {
    let engine = Engine::new(10);
    let pipeline = start(config(Concurrency::Fixed(1)), std::slice::from_ref(&engine));
    let whole = Chat { delivery: Delivery::Whole, ..chat(&[], ms(1)) };
    let answer = pipeline.call(request("whole", whole, Class::Normal)).await.unwrap();
    assert!(matches!(answer.reply, Reply::Opaque(_)));
    assert_eq!(pipeline.stats().in_flight_requests, 1);
    answer.run.unwrap().completed();
    let stats = pipeline.stats();
    assert_eq!((stats.completions, stats.in_flight_requests, stats.replicas[0].in_flight), (1, 0, 0));
}

/// An engine that has so many at a time, and lets others wait inside.
fn slots(engine: Engine, slots: usize) -> Engine {
    Engine { slots: Some(Arc::new(Semaphore::new(slots))), ..engine }
}

/// Calls of a class and a tenant, so many per second at random times, and how long the first token of each took that came
/// after the first five seconds; `None` for those that had none.
async fn arrive(
    pipeline: &Pipeline,
    (class, tenant): (Class, &str),
    (per_second, seconds): (f64, u64),
    seed: u64,
) -> Vec<Option<Duration>> {
    let mut random = StdRng::seed_from_u64(seed);
    let (warm, end) = (Instant::now() + ms(5_000), Instant::now() + Duration::from_secs(seconds));
    let mut calls = Vec::new();
    while Instant::now() < end {
        sleep(Duration::from_secs_f64(-random.random::<f64>().ln() / per_second)).await;
        let (pipeline, arrived) = (pipeline.clone(), Instant::now());
        let mut call = request("ask", chat(&[], Duration::from_secs(5)), class);
        call.tenant = tenant.into();
        let call = tokio::spawn(async move {
            let answer = pipeline.call(call).await.ok()?;
            let ttft = arrived.elapsed();
            read(answer).await;
            Some(ttft)
        });
        calls.push((arrived, call));
    }
    let mut begun = Vec::new();
    for (arrived, call) in calls {
        let ttft = call.await.unwrap();
        begun.extend((arrived >= warm).then_some(ttft));
    }
    begun
}

/// Of those who were to be answered; none is left out.
fn p99(begun: &[Option<Duration>]) -> Duration {
    let mut all: Vec<Duration> = begun.iter().map(|ttft| ttft.expect("answered")).collect();
    all.sort_unstable();
    all[all.len() * 99 / 100]
}

/// Two engines of 16 slots, where each call takes about a second; 0.4 of what they can do, alone and then beside three
/// times what they can do.
async fn beside_a_flood(calm: (Class, &str), flood: (Class, &str)) {
    let engines: Vec<Engine> = (0..2).map(|_| slots(Engine::new(30), 16)).collect();
    let pipeline = start(config(Concurrency::Auto), &engines);
    // Too many of its own make first tokens late as well, which is not to be taken for usual.
    arrive(&pipeline, calm, (85.0, 30), 4).await;
    let alone = p99(&arrive(&pipeline, calm, (11.0, 60), 1).await);
    let (beside, drowned) =
        tokio::join!(arrive(&pipeline, calm, (11.0, 60), 2), arrive(&pipeline, flood, (85.0, 60), 3));
    let (beside, answered) = (p99(&beside), drowned.iter().flatten().count());
    assert!(beside <= alone.mul_f64(1.3), "{beside:?}, and {alone:?} alone");
    // What is left is 17 a second.
    assert!(answered > 55 * 17 / 2, "{answered} of the flood");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_a_low_class_is_hardly_noticed_by_others() {
    beside_a_flood((Class::Normal, ""), (Class::Low, "")).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_tenant_is_hardly_noticed_by_others() {
    beside_a_flood((Class::Normal, "quiet"), (Class::Normal, "loud")).await;
}
