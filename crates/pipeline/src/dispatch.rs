//! The one task that owns the queue: arrivals, free replicas and timers in, batches out.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use crate::{
    arrivals::Rate,
    attempt::Past,
    batch::{self, Plan, Situation, plan, stretched},
    board::{Board, Slot},
    chat::Courtesy,
    check,
    error::{Error, QueueUnit, Rejection, Stage},
    execute::{Batch, SelfCheck, run},
    queue::{Entry, QUANTUM, Queue},
    replica::{Outlook, ReplicaSet},
    request::{Payload, Request},
    respond::Responder,
    shared::{Merging, Needs, Shared},
};

/// With requests waiting and no replica free, time alone may open one (a pause ends, a slow start goes on).
const RECHECK: Duration = Duration::from_millis(20);
/// The least part of the places that come free which is taken to be for those who give way.
const LEAST_PART: f64 = 0.1;
/// Arrivals taken in at once before the queue is looked at.
const ARRIVALS_AT_ONCE: usize = 256;

/// A request on its way through the pipeline.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    pub(crate) request: Request,
    pub(crate) responder: Responder,
    pub(crate) rows: u32,
    pub(crate) enqueued: Instant,
    pub(crate) dispatched: Option<Instant>,
    pub(crate) past: Past,
    /// It came when no replica was ready; how long it waited for one.
    pub(crate) cold: Cold,
    pub(crate) cold_start: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cold {
    No,
    Waiting,
}

#[derive(Debug)]
pub(crate) enum Event {
    Arrive(Box<Ticket>),
    Cancel(u64),
}

#[derive(Debug)]
pub(crate) struct Dispatcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) returns: mpsc::Receiver<Ticket>,
    pub(crate) replicas: watch::Receiver<ReplicaSet>,
    pub(crate) outlook: watch::Receiver<Outlook>,
    queue: Queue<Ticket>,
    arrivals: Rate,
    timer: Option<Instant>,
}

impl Dispatcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        events: mpsc::Receiver<Event>,
        returns: mpsc::Receiver<Ticket>,
        replicas: watch::Receiver<ReplicaSet>,
        outlook: watch::Receiver<Outlook>,
    ) -> Self {
        // Generations are long, and each takes a place for itself: tenants take turns one by one.
        let quantum = if shared.chat.is_some() { 1 } else { QUANTUM };
        let (queue, arrivals) = (Queue::new(quantum), Rate::new(Instant::now()));
        Self { shared, events, returns, replicas, outlook, queue, arrivals, timer: None }
    }

    /// Runs until every handle is gone. What still waits then has no caller.
    pub(crate) async fn run(mut self) {
        while self.next_event().await {
            self.flush();
            self.publish();
        }
    }

    /// Waits for something to happen and takes it in; `false` at the end.
    async fn next_event(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let timer = self.timer;
        let alarm = async move {
            match timer {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Ok(()) = self.replicas.changed() => self.follow_replicas(),
            Some(ticket) = self.returns.recv() => self.come_back(ticket),
            event = self.events.recv() => {
                let Some(event) = event else { return false };
                self.take_in(event);
            }
            () = shared.waiting.freed.notified() => {}
            Ok(()) = self.outlook.changed() => self.refuse_if_off(),
            () = alarm => {}
        }
        true
    }

    fn take_in(&mut self, event: Event) {
        self.handle(event);
        for _ in 0..ARRIVALS_AT_ONCE {
            let Ok(event) = self.events.try_recv() else { break };
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(ticket) if ticket.past.is_first_attempt() => self.arrive(*ticket),
            Event::Arrive(ticket) => self.come_back(*ticket),
            Event::Cancel(id) => {
                if self.queue.remove(id).is_some() {
                    self.shared.waiting.leave(1);
                }
            }
        }
    }

    fn arrive(&mut self, mut ticket: Ticket) {
        let now = Instant::now();
        self.arrivals.record(ticket.rows, now);
        let admitted = if self.shared.board.load().is_empty() {
            ticket.cold = Cold::Waiting;
            self.shared.recorder.counts.held_cold.fetch_add(1, Ordering::Relaxed);
            self.shared.wake.notify_one();
            self.may_wait_for_start(&ticket, now)
        } else {
            self.in_time(&ticket, now)
        };
        match admitted.and_then(|()| self.make_room(&ticket)) {
            Ok(()) => self.enqueue(ticket),
            Err(rejection) => self.reject(ticket, rejection),
        }
    }

    /// A request that comes back was admitted before: it waits again whatever the bounds say, unless there is
    /// nothing left to wait for.
    fn come_back(&mut self, mut ticket: Ticket) {
        if ticket.responder.is_abandoned() {
            return self.shared.waiting.leave(1);
        }
        if self.shared.board.load().is_empty() {
            ticket.cold = Cold::Waiting;
            self.shared.wake.notify_one();
        }
        self.enqueue(ticket);
        self.refuse_if_off();
    }

    fn enqueue(&mut self, ticket: Ticket) {
        let key = match &ticket.request.payload {
            Payload::Tensors(inference) if self.shared.merging() != Merging::Never => batch::key(inference),
            _ => None,
        };
        self.queue.push(Entry {
            id: ticket.id,
            key,
            class: ticket.request.class,
            tenant: Arc::clone(&ticket.request.tenant),
            deadline: ticket.request.answer_by(),
            enqueued: ticket.enqueued,
            rows: ticket.rows,
            bytes: bytes_of(&ticket.request),
            item: ticket,
        });
    }

    fn may_wait_for_start(&self, ticket: &Ticket, now: Instant) -> Result<(), Rejection> {
        match &*self.outlook.borrow() {
            Outlook::Off(rejection) => Err(rejection.clone()),
            Outlook::Starting { eta: Some(eta) } if *eta > ticket.request.answer_by() => {
                let retry_after = eta.saturating_duration_since(now);
                Err(Rejection::ColdStartTimeout { waited: Duration::ZERO, retry_after })
            }
            Outlook::Starting { .. } => Ok(()),
        }
    }

    /// Refuses now what would be dropped later: predicted wait and call, with a margin, past the deadline.
    fn in_time(&self, ticket: &Ticket, now: Instant) -> Result<(), Rejection> {
        let latency = self.shared.latency();
        let Some(rate) = self.shared.service_rate(&latency) else { return Ok(()) };
        if self.queue.is_empty() && self.shared.board.load().has_room(now) {
            // It costs nobody anything; and predictions that became too high are only ever corrected by trying.
            return Ok(());
        }
        let rows = ticket.rows.max(self.rows_at_once(&latency));
        let Some(needs) = self.shared.needs(&ticket.request, rows, &latency) else { return Ok(()) };
        drop(latency);
        let rate = rate * self.part_for(&ticket.request, now);
        let ahead = self.rows_in_flight_ahead();
        let wait_for = |rows: u64| stretched(Duration::from_secs_f64((rows + ahead) as f64 / rate));
        let answer_by = ticket.request.answer_by();
        let patience = self.shared.patience(&ticket.request, &needs);
        let is_late = |wait: Duration| {
            needs.are_too_much(&ticket.request, wait, now) || patience.is_some_and(|patience| wait > patience)
        };
        let mut wait = wait_for(self.queue.rows());
        if is_late(wait) {
            let Request { class, tenant, .. } = &ticket.request;
            wait = wait_for(self.queue.rows_before(*class, tenant, answer_by));
        }
        self.shared.recorder.predicted(wait + needs.answer);
        if is_late(wait) {
            let left = answer_by.saturating_duration_since(now);
            let left = patience.map_or(left, |patience| left.min(patience + needs.answer));
            return Err(Rejection::PredictedLate { wait: wait + needs.answer, left });
        }
        Ok(())
    }

    /// The part of the places that come free which is for a request: those who give way get as many as they have.
    fn part_for(&self, request: &Request, now: Instant) -> f64 {
        let board = self.shared.board.load();
        if self.shared.courtesy(&board, request, now) != Courtesy::GivesWay {
            return 1.0;
        }
        let (giving_way, all) = board.giving_way();
        (f64::from(giving_way) / f64::from(all.max(1))).max(LEAST_PART)
    }

    /// Rows under way that a request waits for before those in the queue. A replica that has many generations at a
    /// time is free again as soon as one of them ends, others on average in the middle of what they have.
    fn rows_in_flight_ahead(&self) -> u64 {
        match self.shared.chat {
            Some(_) => 1,
            None => self.shared.recorder.counts.in_flight_rows.load(Ordering::Relaxed) / 2,
        }
    }

    /// Rows of the call that a request which waits now will be part of.
    fn rows_at_once(&self, latency: &crate::latency::Latency) -> u32 {
        if self.shared.merging() != Merging::On {
            return 1;
        }
        let queued = u32::try_from(self.queue.rows()).unwrap_or(u32::MAX);
        latency.rows_per_call(self.shared.config.slo, self.shared.max_rows()).min(queued.max(1))
    }

    fn make_room(&mut self, ticket: &Ticket) -> Result<(), Rejection> {
        let limits = self.shared.config.queue;
        let bytes = bytes_of(&ticket.request);
        loop {
            let requests = self.queue.len() as u64;
            let (queued, limit, unit) = if requests >= u64::from(limits.requests) {
                (requests, u64::from(limits.requests), QueueUnit::Requests)
            } else if self.queue.bytes().saturating_add(bytes) > limits.bytes {
                (self.queue.bytes() as u64, limits.bytes as u64, QueueUnit::Bytes)
            } else {
                return Ok(());
            };
            let retry_after = self.time_to_drain();
            let full = Rejection::QueueFull { queued, limit, unit, retry_after };
            let Request { class, tenant, .. } = &ticket.request;
            if let Some(lower) = self.queue.evict_below(*class) {
                self.reject(lower.item, Rejection::ShedPriority { retry_after });
            } else if let Some(loud) = self.queue.evict_loudest(*class, tenant) {
                self.reject(loud.item, full);
            } else {
                return Err(full);
            }
        }
    }

    fn time_to_drain(&self) -> Duration {
        let rate = self.shared.service_rate(&self.shared.latency());
        let seconds = rate.map_or(1.0, |rate| self.queue.rows() as f64 / rate.max(1e-3));
        Duration::from_secs_f64(seconds.clamp(0.01, 120.0))
    }

    fn reject(&self, ticket: Ticket, rejection: Rejection) {
        self.shared.waiting.leave(1);
        ticket.fail(Error::Rejected(rejection));
    }

    fn follow_replicas(&mut self) {
        let set = self.replicas.borrow_and_update().clone();
        self.shared.learn_batch_dimension(set.batch_dimension);
        let was_empty = self.shared.board.load().is_empty();
        let merging = self.shared.merging();
        let (limit, epoch) = (self.shared.limit(), self.shared.epoch);
        let board = self.shared.board.load().follow(set.replicas, &limit, epoch, &self.shared.waiting);
        let is_empty = board.is_empty();
        self.shared.board.store(Arc::new(board));
        if self.shared.merging() != merging {
            // It was changed on the board before, which lacks the replicas that are new.
            self.shared.board.load().set_limit(&self.shared.limit());
        }
        if is_empty && !self.queue.is_empty() {
            self.shared.wake.notify_one();
        }
        self.refuse_if_off();
        if was_empty && !is_empty {
            tracing::info!(model = %self.shared.config.model, waiting = self.queue.len(), "first replica is ready");
        }
    }

    /// Nobody waits where no replica is left and none will come. The news of the one and of the other arrive in
    /// any order.
    fn refuse_if_off(&mut self) {
        if self.queue.is_empty() || !self.shared.board.load().is_empty() {
            return;
        }
        let Outlook::Off(rejection) = self.outlook.borrow().clone() else { return };
        for entry in self.queue.take_all() {
            self.reject(entry.item, rejection.clone());
        }
    }

    /// Sends batches while a replica is free and a batch is due.
    fn flush(&mut self) {
        self.timer = None;
        self.shared.end_suspension();
        let board = Arc::clone(&self.shared.board.load());
        if board.is_empty() {
            return self.wait_for_start();
        }
        while !self.queue.is_empty() {
            let now = Instant::now();
            self.drop_doomed(now);
            if self.queue.is_empty() {
                break;
            }
            if !board.has_room(now) {
                self.timer = Some(now + RECHECK);
                break;
            }
            match self.plan(now, board.seats.len()) {
                Plan::Wait(until) => {
                    self.timer = Some(until);
                    break;
                }
                Plan::Flush(rows) => {
                    if !self.send(&board, rows, now) {
                        self.timer = Some(now + RECHECK);
                        break;
                    }
                }
            }
        }
    }

    /// Nobody to call yet: those who waited as long as a start may take are told.
    fn wait_for_start(&mut self) {
        let Some(oldest) = self.queue.oldest() else { return };
        let limit = self.shared.config.cold_start_timeout;
        let now = Instant::now();
        if now >= oldest + limit {
            let ids: Vec<u64> =
                self.queue.iter().filter(|e| now >= e.enqueued + limit).map(|e| e.id).collect();
            for id in ids {
                let Some(entry) = self.queue.remove(id) else { continue };
                let rejection =
                    Rejection::ColdStartTimeout { waited: now - entry.enqueued, retry_after: limit };
                self.reject(entry.item, rejection);
            }
        }
        self.timer = self.queue.oldest().map(|oldest| oldest + limit);
    }

    /// Drops what has expired, and what would before it is answered; the latter not if it is alone, as on arrival.
    fn drop_doomed(&mut self, now: Instant) {
        let alone = self.queue.len() == 1;
        let doomed = {
            let latency = self.shared.latency();
            let some_open = self.shared.service_rate(&latency).is_some();
            self.queue.take_doomed(|entry| {
                let request = &entry.item.request;
                let needs = self.shared.needs(request, entry.rows, &latency).filter(|_| !alone);
                now >= entry.deadline
                    || needs.is_some_and(|needs| {
                        needs.are_too_much(request, Duration::ZERO, now)
                            || (some_open && is_out_of_patience(&self.shared, entry, &needs, now))
                    })
            })
        };
        for entry in doomed {
            let left = entry.deadline.saturating_duration_since(now);
            if left.is_zero() {
                self.shared.waiting.leave(1);
                let waited = now - entry.enqueued;
                entry.item.fail(Error::DeadlineExceeded { stage: Stage::Queue, waited });
                continue;
            }
            let needs = self.shared.needs(&entry.item.request, entry.rows, &self.shared.latency());
            let wait = needs.map_or(Duration::ZERO, |needs| needs.answer);
            self.reject(entry.item, Rejection::PredictedLate { wait, left });
        }
    }

    fn plan(&self, now: Instant, replicas: usize) -> Plan {
        if self.shared.merging() != Merging::On {
            return Plan::Flush(1);
        }
        let (Some(oldest), Some(earliest_deadline)) = (self.queue.oldest(), self.queue.earliest_deadline())
        else {
            return Plan::Flush(1);
        };
        plan(&Situation {
            now,
            queued_rows: self.queue.rows(),
            oldest,
            earliest_deadline,
            arrival_rate: self.arrivals.get(now),
            replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
            max_rows: self.shared.max_rows(),
            max_hold: self.shared.max_hold(),
            slo: self.shared.config.slo,
            latency: &self.shared.latency(),
        })
    }

    /// Takes a batch from the queue and sends it; `false` if no replica had room after all.
    fn send(&mut self, board: &Board, rows: u32, now: Instant) -> bool {
        let merging = self.shared.merging();
        let Some((head, slot)) = self.head_with_slot(board, merging, now) else { return false };
        let (max_rows, max_requests) = match merging {
            // One is enough to see whether a replica that was ejected answers again.
            _ if slot.seat.is_on_probation() => (1, 1),
            Merging::On => (rows, usize::MAX),
            Merging::Unchecked => (self.shared.max_rows(), check::MEMBERS),
            _ => (1, 1),
        };
        let taken = self.queue.take_from(head, max_rows, max_requests);
        let mut members: Vec<Ticket> = taken.into_iter().map(|entry| entry.item).collect();
        self.shared.waiting.leave(members.len());
        for ticket in members.iter_mut().filter(|ticket| ticket.cold == Cold::Waiting) {
            let ready = slot.seat.replica.ready_since.max(ticket.enqueued);
            ticket.cold_start = Some(ready.saturating_duration_since(ticket.enqueued));
        }
        // Before the first merge a few requests are computed both ways.
        let self_check = match merging {
            Merging::Unchecked if members.len() > 1 => SelfCheck::Due,
            _ => SelfCheck::NotDue,
        };
        if self_check == SelfCheck::Due {
            self.shared.start_check();
        }
        tokio::spawn(run(Arc::clone(&self.shared), Batch { members, slot, self_check }));
        true
    }

    /// The request whose turn it is, and a seat for it. One that leaves the last places to others does not keep those
    /// from them.
    fn head_with_slot(&self, board: &Board, merging: Merging, now: Instant) -> Option<(u64, Slot)> {
        let mut heads = self.queue.heads(now);
        if !merging.spreads() {
            let head = heads.next()?;
            return Some((head.id, board.pick_fastest(now, head.item.past.avoid(now))?));
        }
        let mut tried = None;
        heads.find_map(|head| {
            // Nobody leaves less to others than nothing.
            if tried == Some(Courtesy::None) {
                return None;
            }
            let Ticket { request, past, .. } = &head.item;
            let courtesy = self.shared.courtesy(board, request, now);
            // Where one found no place, another that leaves as much to others finds none either.
            if tried.is_some_and(|tried| courtesy >= tried) {
                return None;
            }
            let avoid = past.avoid(now);
            let slot = self.shared.pick(board, now, (request, courtesy), avoid);
            // Unless it would not have the place that there is.
            tried = if avoid.is_none() { Some(courtesy) } else { tried };
            Some((head.id, slot?))
        })
    }

    /// What the handle and the autoscaler read of the queue.
    fn publish(&self) {
        let gauges = &self.shared.queue;
        gauges.rows.store(self.queue.rows(), Ordering::Relaxed);
        gauges.bytes.store(self.queue.bytes() as u64, Ordering::Relaxed);
        let since_epoch =
            |at: Instant| at.saturating_duration_since(self.shared.epoch).as_micros() as u64 + 1;
        gauges.oldest.store(self.queue.oldest().map_or(0, since_epoch), Ordering::Relaxed);
    }
}

/// Whether a request has waited for a place for longer than makes sense, though replicas take calls. One that came when
/// none was ready, or was sent before, is let.
fn is_out_of_patience(shared: &Shared, entry: &Entry<Ticket>, needs: &Needs, now: Instant) -> bool {
    let ticket = &entry.item;
    let is_ordinary = ticket.cold == Cold::No && ticket.past.is_first_attempt();
    let patience = shared.patience(&ticket.request, needs).filter(|_| is_ordinary);
    patience.is_some_and(|patience| now >= entry.enqueued + patience)
}

/// What a request holds. The parts of a large one are charged to the whole: they have their data only.
fn bytes_of(request: &Request) -> usize {
    let data = match &request.payload {
        Payload::Tensors(inference) => inference.bytes(),
        Payload::Opaque(opaque) => opaque.body.len(),
    };
    data.max(request.charge.bytes())
}
