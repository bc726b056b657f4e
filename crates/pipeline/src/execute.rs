//! One batch from its replica back to its callers: call, split, and on failure bisect or try elsewhere.

use std::sync::{Arc, atomic::Ordering};

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    attempt::{Next, attempt, next},
    batch,
    board::Slot,
    check,
    direct::InFlight,
    dispatch::Ticket,
    error::{CallError, Error, Stage},
    replica::Call,
    request::{Answer, Inference, Outcome, Payload, Reply, Timings},
    shared::{Merging, Shared},
    split::split,
};

/// Requests that go to one replica together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) members: Vec<Ticket>,
    pub(crate) slot: Slot,
    /// Compute every member alone and then all together, to see that it makes no difference.
    pub(crate) self_check: SelfCheck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SelfCheck {
    Due,
    NotDue,
}

/// Runs a batch until each member has its outcome or is back in the queue.
pub(crate) async fn run(shared: Arc<Shared>, batch: Batch) {
    let Batch { mut members, slot, self_check } = batch;
    members.retain(|ticket| !ticket.responder.is_abandoned());
    let (requests, rows) = (members.len() as u64, members.iter().map(|t| u64::from(t.rows)).sum::<u64>());
    let leaving = InFlight::enter_all(&shared, requests, rows);
    let now = Instant::now();
    for ticket in &mut members {
        ticket.dispatched = Some(now);
        ticket.responder.mark_dispatched();
        shared.recorder.waited(now - ticket.enqueued);
    }
    match self_check {
        SelfCheck::Due => {
            run_check(&shared, &slot, members).await;
            if shared.merging() == Merging::Checking {
                shared.set_merging(Merging::Unchecked);
            }
        }
        SelfCheck::NotDue => run_groups(&shared, &slot, members).await,
    }
    drop(leaving);
}

/// Sends the members as one call; a call that is refused is halved until only the guilty are left: at most
/// 2·log₂(members) calls more for one of them, and never more than twice the members.
async fn run_groups(shared: &Arc<Shared>, slot: &Slot, members: Vec<Ticket>) {
    let mut groups = vec![members];
    while let Some(mut group) = groups.pop() {
        group.retain(|ticket| !ticket.responder.is_abandoned());
        if group.is_empty() {
            continue;
        }
        let Some(result) = call_unless_abandoned(shared, slot, &mut group).await else { continue };
        match result {
            Ok(reply) => deliver(shared, group, reply).await,
            Err(error) if group.len() > 1 && may_be_one_members_fault(shared, &error) => {
                let second = group.split_off(group.len() / 2);
                groups.push(second);
                groups.push(group);
            }
            Err(error) => settle(shared, slot, group, &error).await,
        }
    }
}

fn may_be_one_members_fault(shared: &Shared, error: &CallError) -> bool {
    match error {
        CallError::Refused { .. } | CallError::TooLarge { .. } => true,
        CallError::Failed | CallError::BadResponse => shared.config.idempotent,
        _ => false,
    }
}

/// `None`: every caller has left, and the call was cancelled.
async fn call_unless_abandoned(
    shared: &Shared,
    slot: &Slot,
    group: &mut [Ticket],
) -> Option<Result<Reply, CallError>> {
    let rows = group.iter().map(|ticket| ticket.rows).sum();
    let call = merged_call(group)?;
    shared.recorder.batch(group.len(), rows);
    shared.budget().deposit(Instant::now());
    let abandoned = join_all(group.iter_mut().map(|ticket| ticket.responder.abandoned()));
    tokio::select! {
        biased;
        result = attempt(shared, slot, call, rows) => Some(result),
        _ = abandoned => None,
    }
}

/// One call for all; it may take as long as its most patient member.
fn merged_call(group: &[Ticket]) -> Option<Call> {
    let first = group.first()?;
    let deadline = group.iter().map(|ticket| ticket.request.deadline).max()?;
    let trace = first.request.trace.clone();
    let payload = match &first.request.payload {
        Payload::Opaque(opaque) => Payload::Opaque(opaque.clone()),
        Payload::Tensors(_) => {
            let members: Vec<&Inference> = group.iter().filter_map(Ticket::inference).collect();
            Payload::Tensors(batch::concat(&members))
        }
    };
    Some(Call { payload, deadline, trace })
}

async fn deliver(shared: &Arc<Shared>, mut group: Vec<Ticket>, reply: Reply) {
    let answered = Instant::now();
    let rows = group.iter().map(|ticket| ticket.rows).sum();
    if group.len() == 1 {
        if let Some(ticket) = group.pop() {
            ticket.answer(reply, rows, answered);
        }
        return;
    }
    let layout: Vec<u32> = group.iter().map(|ticket| ticket.rows).collect();
    let parts = match &reply {
        Reply::Tensors(outcome) => split(outcome, &layout).ok(),
        Reply::Opaque(_) => None,
    };
    match parts {
        Some(parts) => {
            for (ticket, part) in group.into_iter().zip(parts) {
                ticket.answer(Reply::Tensors(part), rows, answered);
            }
        }
        None => nobody_gets_it(shared, group).await,
    }
}

/// The answer does not have the rows of the batch: no member may be given any of it. They are computed again,
/// each alone, where that is allowed.
async fn nobody_gets_it(shared: &Arc<Shared>, group: Vec<Ticket>) {
    shared.suspend_merging("wrong_rows");
    for ticket in group {
        if shared.config.idempotent && ticket.attempts == 0 {
            send_back(shared, ticket).await;
        } else {
            ticket.fail(Error::Upstream(CallError::BadResponse));
        }
    }
}

/// Fails the members of a call, or sends them back to the queue for another replica.
async fn settle(shared: &Arc<Shared>, slot: &Slot, group: Vec<Ticket>, error: &CallError) {
    let attempts = group.iter().map(|ticket| ticket.attempts).max().unwrap_or(0);
    let next = next(shared, error, attempts);
    for mut ticket in group {
        match next {
            Next::Retry => {
                ticket.avoid = Some(Arc::clone(&slot.seat.replica.id));
                send_back(shared, ticket).await;
            }
            Next::Fail => ticket.fail(Error::Upstream(error.clone())),
        }
    }
}

async fn send_back(shared: &Shared, mut ticket: Ticket) {
    ticket.attempts += 1;
    shared.waiting.requests.fetch_add(1, Ordering::AcqRel);
    if let Err(closed) = shared.returns.send(ticket).await {
        shared.waiting.requests.fetch_sub(1, Ordering::AcqRel);
        closed.0.fail(Error::Internal);
    }
}

/// Answers each member from a call of its own, then asks once more for all together and compares.
async fn run_check(shared: &Arc<Shared>, slot: &Slot, members: Vec<Ticket>) {
    let mut compared: Vec<(Inference, u32, Outcome)> = Vec::new();
    let trace = members.first().map(|ticket| ticket.request.trace.clone()).unwrap_or_default();
    let deadline = members.iter().map(|ticket| ticket.request.deadline).max();
    for ticket in members {
        let mut group = [ticket];
        let result = call_unless_abandoned(shared, slot, &mut group).await;
        let [ticket] = group;
        match result {
            Some(Ok(reply)) => {
                if let (Some(inference), Reply::Tensors(outcome)) = (ticket.inference(), &reply) {
                    compared.push((inference.clone(), ticket.rows, outcome.clone()));
                }
                let rows = ticket.rows;
                ticket.answer(reply, rows, Instant::now());
            }
            Some(Err(error)) => settle(shared, slot, vec![ticket], &error).await,
            None => {}
        }
    }
    let (true, Some(deadline)) = (compared.len() > 1, deadline) else { return };
    let merged = batch::concat(&compared.iter().map(|(inference, ..)| inference).collect::<Vec<_>>());
    let call = Call { payload: Payload::Tensors(merged), deadline, trace };
    let layout: Vec<u32> = compared.iter().map(|(_, rows, _)| *rows).collect();
    match attempt(shared, slot, call, layout.iter().sum()).await {
        Ok(Reply::Tensors(outcome)) => conclude(shared, &compared, &outcome, &layout),
        Ok(Reply::Opaque(_))
        | Err(CallError::Refused { .. } | CallError::Failed | CallError::BadResponse) => {
            shared.suspend_merging("self_check");
        }
        Err(_) => {}
    }
}

fn conclude(shared: &Shared, compared: &[(Inference, u32, Outcome)], merged: &Outcome, layout: &[u32]) {
    let same = split(merged, layout)
        .is_ok_and(|parts| parts.iter().zip(compared).all(|(part, (_, _, alone))| check::same(part, alone)));
    if same {
        tracing::info!(model = %shared.config.model, requests = compared.len(), "self-check passed: requests are merged");
        shared.set_merging(Merging::On);
    } else {
        shared.suspend_merging("self_check");
    }
}

impl Ticket {
    /// Gives the caller its answer, with where the time went.
    fn answer(self, reply: Reply, batch_rows: u32, answered: Instant) {
        let dispatched = self.dispatched.unwrap_or(self.enqueued);
        let timings = Timings {
            queue: dispatched - self.enqueued,
            batch: answered.elapsed(),
            upstream: answered.saturating_duration_since(dispatched),
            batch_rows,
            cold_start: self.cold_start,
        };
        self.responder.respond(Ok(Answer { reply, timings }));
    }

    pub(crate) fn fail(self, error: Error) {
        let error = match error {
            Error::Upstream(CallError::Deadline) => {
                Error::DeadlineExceeded { stage: Stage::Upstream, waited: self.enqueued.elapsed() }
            }
            error => error,
        };
        self.responder.respond(Err(error));
    }

    fn inference(&self) -> Option<&Inference> {
        match &self.request.payload {
            Payload::Tensors(inference) => Some(inference),
            Payload::Opaque(_) => None,
        }
    }
}
