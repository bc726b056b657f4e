//! The engine simulated: slots, a line in front of them, serialised prefill, a prefix cache, and tokens in time.
//!
//! Nothing runs by itself. A [`Sequence`] is polled by whoever sends its tokens, so that a client who leaves ends
//! it by dropping it: its slot is free at once. A reader too slow for its tokens keeps its slot, and gets those due
//! without waiting.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex as StdMutex, MutexGuard as StdGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};

use super::{
    cache::PrefixCache,
    counts::{Counters, Counts},
    digest::Draws,
    options::{Options, Times},
    prompt::{BLOCK_TOKENS, Prompt},
};

/// One engine; the sequences in it share its slots, its prefill and its cache.
#[derive(Debug)]
pub(super) struct Engine {
    times: Times,
    seed: u64,
    slots: Arc<Semaphore>,
    slots_max: usize,
    inside_max: usize,
    inside: AtomicUsize,
    running: AtomicUsize,
    decoding: AtomicUsize,
    /// When the prefill of the last prompt ended; held while the next one's is under way.
    prefilled: Mutex<Instant>,
    /// Absent where it is turned off.
    cache: Option<StdMutex<PrefixCache>>,
    pub(super) counters: Counters,
}

/// As many sequences are in the engine as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What a sequence asks of the engine.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) prompt: Prompt,
    /// Tokens to generate; none for an embedding.
    pub(super) tokens: usize,
    /// How much later than usual the first token comes.
    pub(super) late: Duration,
}

impl Engine {
    pub(super) fn new(options: &Options) -> Self {
        let slots = options.slots.get().min(Semaphore::MAX_PERMITS);
        let blocks = options.prefix_cache / BLOCK_TOKENS;
        Self {
            times: options.times,
            seed: options.seed,
            slots: Arc::new(Semaphore::new(slots)),
            slots_max: slots,
            inside_max: slots.saturating_add(options.queue),
            inside: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            decoding: AtomicUsize::new(0),
            prefilled: Mutex::new(Instant::now()),
            cache: (blocks > 0).then(|| StdMutex::new(PrefixCache::new(blocks))),
            counters: Counters::default(),
        }
    }

    pub(super) fn times(&self) -> &Times {
        &self.times
    }

    pub(super) fn counts(&self) -> Counts {
        let (inside, running) = (self.inside.load(Relaxed), self.running.load(Relaxed));
        self.counters.read(running as u64, inside.saturating_sub(running) as u64)
    }

    /// Sets the counters to zero and empties the prefix cache. What is in the engine goes on.
    pub(super) fn reset(&self) {
        self.counters.reset();
        if let Some(mut cache) = self.cache() {
            cache.clear();
        }
    }

    /// Takes `work` in, to run or to wait for its turn.
    ///
    /// # Errors
    /// The line is full.
    pub(super) fn admit(self: &Arc<Self>, work: Work) -> Result<Sequence, Full> {
        let inside = Gauge::enter(self, |engine| &engine.inside);
        let count = self.inside.load(Relaxed);
        if count > self.inside_max {
            return Err(Full);
        }
        self.counters.waiting_max.fetch_max(count.saturating_sub(self.slots_max) as u64, Relaxed);
        let (tokens, draws) = (work.tokens, Draws::new(self.seed ^ work.prompt.digest()));
        Ok(Sequence {
            engine: Arc::clone(self),
            phase: Phase::Starting(Box::pin(start(Arc::clone(self), work, draws))),
            tokens,
            generated: 0,
            due: Instant::now(),
            pause: Pause::None,
            sleep: None,
            draws,
            _inside: inside,
        })
    }

    /// Computes the prompt and returns how many of its tokens were cached.
    async fn prefill(&self, prompt: &Prompt, unit: f64) -> usize {
        if self.times.prefill == 0 {
            let cached = self.cached(prompt);
            self.hold(prompt.blocks());
            return cached;
        }
        let arrived = Instant::now();
        let last = self.prefilled.lock().await;
        let cached = self.cached(prompt);
        let time = self.times.vary(self.times.prefill(prompt.tokens() - cached), unit);
        let end = arrived.max(*last) + time;
        let turn = Turn { last, end };
        tokio::time::sleep_until(end).await;
        drop(turn);
        self.hold(prompt.blocks());
        cached
    }

    fn cached(&self, prompt: &Prompt) -> usize {
        self.cache().map_or(0, |cache| cache.hits(prompt.cacheable()) * BLOCK_TOKENS)
    }

    fn hold(&self, blocks: &[u64]) {
        if let Some(mut cache) = self.cache() {
            cache.insert(blocks);
        }
    }

    /// Names stay usable whatever happened to a thread that held them.
    fn cache(&self) -> Option<StdGuard<'_, PrefixCache>> {
        self.cache.as_ref().map(|cache| cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One prompt's turn of the prefill, given back early where its client leaves.
///
/// The next turn starts where this one was to end, not when its timer fired, so that rounding does not add up.
struct Turn<'a> {
    last: MutexGuard<'a, Instant>,
    end: Instant,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.last = self.end.min(Instant::now());
    }
}

/// Counted in a gauge of the engine until dropped.
struct Gauge {
    engine: Arc<Engine>,
    of: fn(&Engine) -> &AtomicUsize,
}

impl Gauge {
    fn enter(engine: &Arc<Engine>, of: fn(&Engine) -> &AtomicUsize) -> Self {
        of(engine).fetch_add(1, Relaxed);
        Self { engine: Arc::clone(engine), of }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.engine).fetch_sub(1, Relaxed);
    }
}

/// What a sequence holds while it decodes; the slot goes last.
struct Seat {
    prompt: Prompt,
    cached: usize,
    _decoding: Gauge,
    _running: Gauge,
    _slot: OwnedSemaphorePermit,
}

/// Waits for a slot, then for the prefill and the fixed time to the first token.
async fn start(engine: Arc<Engine>, work: Work, mut draws: Draws) -> Seat {
    let slots = Arc::clone(&engine.slots);
    let slot = slots.acquire_owned().await.expect("the semaphore of slots is never closed");
    let running = Gauge::enter(&engine, |engine| &engine.running);
    engine.counters.running_max.fetch_max(engine.running.load(Relaxed) as u64, Relaxed);
    let cached = engine.prefill(&work.prompt, draws.unit()).await;
    let rest = engine.times.vary(engine.times.ttft, draws.unit()) + work.late;
    if !rest.is_zero() {
        tokio::time::sleep(rest).await;
    }
    engine.counters.prompt_tokens.fetch_add(work.prompt.tokens() as u64, Relaxed);
    engine.counters.cached_tokens.fetch_add(cached as u64, Relaxed);
    let decoding = Gauge::enter(&engine, |engine| &engine.decoding);
    Seat { prompt: work.prompt, cached, _decoding: decoding, _running: running, _slot: slot }
}

/// One answer being generated. Dropped before its end it counts as cancelled.
pub(super) struct Sequence {
    engine: Arc<Engine>,
    phase: Phase,
    tokens: usize,
    generated: usize,
    /// When the token after the last one generated is due.
    due: Instant,
    pause: Pause,
    sleep: Option<Pin<Box<Sleep>>>,
    draws: Draws,
    _inside: Gauge,
}

enum Phase {
    Starting(Pin<Box<dyn Future<Output = Seat> + Send>>),
    Decoding(Seat),
    Over,
}

/// What was done about the time until the next token.
enum Pause {
    None,
    Yielded,
    Sleeping,
}

impl Sequence {
    /// Tokens of the prompt that came from the cache; 0 until its prefill is done.
    pub(super) fn cached(&self) -> usize {
        if let Phase::Decoding(seat) = &self.phase { seat.cached } else { 0 }
    }

    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    /// Ready when the first token is due.
    pub(super) fn poll_seat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Phase::Starting(starting) = &mut self.phase {
            let seat = ready!(starting.as_mut().poll(cx));
            self.phase = Phase::Decoding(seat);
            self.due = Instant::now();
        }
        Poll::Ready(())
    }

    /// The number of the next token once its time has come, or nothing after the last.
    ///
    /// Between two tokens this is pending at least once, also where no time passes: the runtime has its turn, and
    /// what was written so far goes out.
    pub(super) fn poll_token(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        ready!(self.poll_seat(cx));
        if self.generated > 0 && self.generated < self.tokens {
            ready!(self.poll_pause(cx));
        }
        if self.generated >= self.tokens {
            return Poll::Ready(None);
        }
        self.generated += 1;
        self.engine.counters.generation_tokens.fetch_add(1, Relaxed);
        Poll::Ready(Some(self.generated - 1))
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self.pause, Pause::None) {
            let step = self.engine.times.step(self.engine.decoding.load(Relaxed));
            if step.is_zero() || self.late_for(step) {
                self.pause = Pause::Yielded;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.pause = Pause::Sleeping;
            let due = self.due;
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(due),
                None => self.sleep = Some(Box::pin(tokio::time::sleep_until(due))),
            }
        }
        if let (Pause::Sleeping, Some(sleep)) = (&self.pause, &mut self.sleep) {
            ready!(sleep.as_mut().poll(cx));
        }
        self.pause = Pause::None;
        Poll::Ready(())
    }

    /// Moves the time of the next token on by a step; whether it has passed already.
    fn late_for(&mut self, step: Duration) -> bool {
        let unit = if self.engine.times.jitter > 0.0 { self.draws.unit() } else { 0.5 };
        self.due += self.engine.times.vary(step, unit);
        self.due <= Instant::now()
    }

    /// Generates until that many tokens are there, or all of them.
    pub(super) async fn generate(&mut self, tokens: usize) {
        poll_fn(|cx| self.poll_seat(cx)).await;
        let tokens = tokens.min(self.tokens);
        if self.engine.times.step(1).is_zero() {
            // Where no time passes there is no need to go token by token.
            let rest = tokens.saturating_sub(self.generated);
            self.engine.counters.generation_tokens.fetch_add(rest as u64, Relaxed);
            self.generated += rest;
        }
        while self.generated < tokens && poll_fn(|cx| self.poll_token(cx)).await.is_some() {}
    }

    /// The answer is complete: its text is cached after its prompt, as the next turn of a chat will begin so.
    pub(super) fn finish<'a>(&mut self, text: impl Iterator<Item = &'a str>) {
        if let Phase::Decoding(mut seat) = std::mem::replace(&mut self.phase, Phase::Over) {
            self.engine.counters.finished.fetch_add(1, Relaxed);
            if self.engine.cache.is_some() && self.tokens > 0 {
                text.for_each(|piece| seat.prompt.push(piece.as_bytes()));
                self.engine.hold(seat.prompt.blocks());
            }
        }
    }

    /// The answer ends here because it was to fail.
    pub(super) fn fail(&mut self) {
        self.phase = Phase::Over;
        self.engine.counters.failed.fetch_add(1, Relaxed);
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        if !matches!(self.phase, Phase::Over) {
            self.engine.counters.cancelled.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
