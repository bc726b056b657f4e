use std::num::NonZeroUsize;

use tokio::task::JoinHandle;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn engine(change: impl FnOnce(&mut Options)) -> Arc<Engine> {
    let mut options = Options {
        times: Times {
            ttft: 100 * MS,
            prefill: 1000,
            tpot: 10 * MS,
            tpot_per_stream: 2 * MS,
            ..Times::none()
        },
        ..Options::default()
    };
    change(&mut options);
    Arc::new(Engine::new(&options))
}

/// A prompt of that many tokens which shares no block with a prompt of another `name`.
fn prompt(name: char, tokens: usize) -> Prompt {
    Prompt::of_text(&name.to_string().repeat(tokens * 4))
}

fn admit(engine: &Arc<Engine>, prompt: Prompt, tokens: usize) -> Sequence {
    engine.admit(Work { prompt, tokens, late: Duration::ZERO }).ok().unwrap()
}

/// Milliseconds until the first token, and until the last.
async fn timed(mut sequence: Sequence) -> (u128, u128) {
    let began = Instant::now();
    let mut first = None;
    while poll_fn(|cx| sequence.poll_token(cx)).await.is_some() {
        first.get_or_insert(began.elapsed());
    }
    sequence.finish(std::iter::empty());
    (first.unwrap_or_default().as_millis(), began.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn the_first_token_waits_for_the_prefill_and_the_others_for_a_step_each() {
    let engine = engine(|_| {});
    assert_eq!(timed(admit(&engine, prompt('a', 50), 6)).await, (150, 150 + 5 * 12));
    let counts = engine.counts();
    assert_eq!((counts.finished, counts.prompt_tokens, counts.generation_tokens), (1, 50, 6));
    assert_eq!((counts.running, counts.waiting, counts.cancelled), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_one_piece_takes_as_long_as_its_stream() {
    let engine = engine(|_| {});
    let began = Instant::now();
    let mut sequence = admit(&engine, prompt('a', 50), 6);
    sequence.generate(6).await;
    assert_eq!((began.elapsed().as_millis(), sequence.generated()), (210, 6));
    sequence.finish(std::iter::empty());
    assert_eq!(engine.counts().generation_tokens, 6);
}

#[tokio::test(start_paused = true)]
async fn tokens_slow_down_linearly_with_the_streams_that_decode() {
    let engine = engine(|options| options.times.prefill = 0);
    let join = |tokens| tokio::spawn(timed(admit(&engine, prompt('a', 1), tokens)));
    let others: Vec<_> = (0..7).map(|_| join(1000)).collect();
    tokio::time::sleep(500 * MS).await;
    assert_eq!(join(11).await.unwrap(), (100, 100 + 10 * (10 + 8 * 2)));
    assert_eq!(engine.counts().running_max, 8);
    others.iter().for_each(JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn prompts_are_computed_one_after_the_other() {
    let engine = engine(|_| {});
    let streams: Vec<_> =
        ['a', 'b', 'c'].map(|name| tokio::spawn(timed(admit(&engine, prompt(name, 50), 1)))).into();
    let mut firsts = Vec::new();
    for stream in streams {
        firsts.push(stream.await.unwrap().0);
    }
    assert_eq!(firsts, [150, 200, 250]);
}

#[tokio::test(start_paused = true)]
async fn a_prefill_whose_client_leaves_makes_room_for_the_next() {
    let engine = engine(|_| {});
    let long = tokio::spawn(timed(admit(&engine, prompt('a', 5000), 1)));
    tokio::time::sleep(20 * MS).await;
    let next = tokio::spawn(timed(admit(&engine, prompt('b', 50), 1)));
    tokio::time::sleep(10 * MS).await;
    long.abort();
    assert_eq!(next.await.unwrap().0, 10 + 50 + 100);
    assert_eq!(engine.counts().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_known_prefix_costs_no_prefill() {
    let engine = engine(|_| {});
    timed(admit(&engine, prompt('a', 160), 1)).await;
    let mut again = prompt('a', 160);
    again.push(b"more");
    let mut sequence = admit(&engine, again, 1);
    let began = Instant::now();
    sequence.generate(1).await;
    assert_eq!((sequence.cached(), began.elapsed().as_millis()), (160, 101));
    assert_eq!(engine.counts().cached_tokens, 160);
    drop(sequence);
    engine.reset();
    assert_eq!(timed(admit(&engine, prompt('a', 160), 1)).await.0, 260);
}

#[tokio::test(start_paused = true)]
async fn the_next_turn_of_a_chat_finds_the_answer_cached_too() {
    let engine = engine(|_| {});
    let answer = ["x".repeat(64), "y".repeat(64)];
    let mut sequence = admit(&engine, prompt('a', 16), 2);
    sequence.generate(2).await;
    sequence.finish(answer.iter().map(String::as_str));
    let mut next = prompt('a', 16);
    answer.iter().for_each(|piece| next.push(piece.as_bytes()));
    next.push(b"and then?");
    let mut sequence = admit(&engine, next, 1);
    sequence.generate(1).await;
    assert_eq!(sequence.cached(), 48);
}

#[tokio::test(start_paused = true)]
async fn without_a_cache_nothing_is_known() {
    let engine = engine(|options| options.prefix_cache = 15);
    for _ in 0..2 {
        assert_eq!(timed(admit(&engine, prompt('a', 160), 1)).await.0, 260);
    }
    assert_eq!(engine.counts().cached_tokens, 0);
}

#[tokio::test(start_paused = true)]
async fn those_without_a_slot_wait_in_line_and_those_without_a_place_are_refused() {
    let engine = engine(|options| {
        options.slots = NonZeroUsize::MIN;
        options.queue = 2;
        options.times.prefill = 0;
    });
    let streams: Vec<_> =
        ['a', 'b', 'c'].map(|name| tokio::spawn(timed(admit(&engine, prompt(name, 1), 2)))).into();
    let refused = engine.admit(Work { prompt: prompt('d', 1), tokens: 1, late: Duration::ZERO });
    assert!(refused.is_err());
    tokio::time::sleep(MS).await;
    assert_eq!((engine.counts().running, engine.counts().waiting), (1, 2));
    let mut ends = Vec::new();
    for stream in streams {
        ends.push(stream.await.unwrap().1);
    }
    assert_eq!(ends, [112, 224, 336]);
    let counts = engine.counts();
    assert_eq!((counts.finished, counts.running_max, counts.waiting_max), (3, 1, 2));
    assert!(engine.admit(Work { prompt: prompt('d', 1), tokens: 1, late: Duration::ZERO }).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_frees_its_slot_at_once_wherever_it_is() {
    let engine = engine(|options| options.slots = NonZeroUsize::MIN);
    let decoding = tokio::spawn(timed(admit(&engine, prompt('a', 1), 1000)));
    let waiting = tokio::spawn(timed(admit(&engine, prompt('b', 1), 1000)));
    let next = tokio::spawn(timed(admit(&engine, prompt('c', 1), 1)));
    tokio::time::sleep(500 * MS).await;
    waiting.abort();
    decoding.abort();
    assert_eq!(next.await.unwrap().0, 601);
    let counts = engine.counts();
    assert_eq!((counts.cancelled, counts.finished, counts.running, counts.waiting), (2, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_demand_is_not_counted_as_cancelled() {
    let engine = engine(|_| {});
    let mut sequence = admit(&engine, prompt('a', 1), 5);
    sequence.generate(2).await;
    sequence.fail();
    drop(sequence);
    let counts = engine.counts();
    assert_eq!((counts.failed, counts.cancelled, counts.generation_tokens, counts.running), (1, 0, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_was_away_gets_the_tokens_due_without_waiting() {
    let engine = engine(|options| options.times.prefill = 0);
    let mut sequence = admit(&engine, prompt('a', 1), 20);
    poll_fn(|cx| sequence.poll_token(cx)).await;
    tokio::time::sleep(120 * MS).await;
    let back = Instant::now();
    for _ in 0..10 {
        poll_fn(|cx| sequence.poll_token(cx)).await;
    }
    assert_eq!(back.elapsed(), Duration::ZERO);
    poll_fn(|cx| sequence.poll_token(cx)).await;
    assert_eq!(back.elapsed(), 12 * MS);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_take_no_time_still_give_way_between_each_other() {
    let engine = engine(|options| options.times = Times::none());
    let mut sequence = admit(&engine, prompt('a', 1), 3);
    let mut polls = Vec::new();
    while polls.len() < 6 {
        polls.push(poll_fn(|cx| Poll::Ready(sequence.poll_token(cx))).await);
    }
    let token = |token| Poll::Ready(Some(token));
    assert_eq!(polls, [token(0), Poll::Pending, token(1), Poll::Pending, token(2), Poll::Ready(None)]);
}

#[tokio::test(start_paused = true)]
async fn a_first_token_may_be_late_and_all_may_be_slow() {
    let engine = engine(|options| options.times.slow = 2.0);
    let work = Work { prompt: prompt('a', 50), tokens: 2, late: 1000 * MS };
    assert_eq!(timed(engine.admit(work).ok().unwrap()).await, (1300, 1324));
}

#[tokio::test(start_paused = true)]
async fn jitter_repeats_with_its_seed() {
    let run = |seed| async move {
        let engine = engine(|options| {
            options.times.jitter = 0.5;
            options.seed = seed;
        });
        timed(admit(&engine, prompt('a', 50), 10)).await
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}
