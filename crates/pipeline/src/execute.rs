//! One batch from its replica back to its callers: call, split, and on failure bisect or try elsewhere.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    attempt::{Size, attempt, repeats},
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
    trace::Traced,
};

/// How long the merged call of a check may take, for which nobody waits.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

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
        if ticket.dispatched.is_none() {
            ticket.dispatched = Some(now);
            shared.recorder.waited(now - ticket.enqueued);
        }
        if let Some(traced) = &ticket.request.traced {
            traced.dispatched(now);
        }
        ticket.responder.mark_dispatched();
    }
    match self_check {
        SelfCheck::Due => run_check(&shared, &slot, members).await,
        SelfCheck::NotDue => run_groups(&shared, &slot, members).await,
    }
    drop(leaving);
}

/// Sends the members as one call; a call that is refused is halved until only the guilty are left: at most
/// 2·log₂(members) calls more for one of them, and never more than twice the members.
async fn run_groups(shared: &Shared, slot: &Slot, members: Vec<Ticket>) {
    let mut groups = vec![members];
    while let Some(mut group) = groups.pop() {
        group.retain(|ticket| !ticket.responder.is_abandoned());
        if group.is_empty() {
            continue;
        }
        let Some(result) = call_unless_abandoned(shared, slot, &mut group).await else { continue };
        match result {
            Ok(reply) => deliver(shared, slot, group, reply).await,
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
        // So may be the server's: then every half fails, and the budget ends it.
        CallError::Failed | CallError::BadResponse => {
            shared.config.idempotent && shared.budget().withdraw(Instant::now())
        }
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
    let size = match &*group {
        [ticket] => Size::of(&ticket.request, rows),
        _ => Size::Rows(rows),
    };
    shared.recorder.batch(group.len(), rows);
    shared.budget().deposit(Instant::now());
    let abandoned = join_all(group.iter_mut().map(|ticket| ticket.responder.abandoned()));
    tokio::select! {
        biased;
        result = attempt(shared, slot, call, size) => Some(result),
        _ = abandoned => None,
    }
}

/// One call for all; it may take as long as its most patient member.
fn merged_call(group: &[Ticket]) -> Option<Call> {
    let first = group.first()?;
    let deadline = group.iter().map(|ticket| ticket.request.answer_by()).max()?;
    let ends = group.iter().map(|ticket| ticket.request.deadline).max()?;
    let trace = first.request.trace.clone();
    let payload = match &first.request.payload {
        Payload::Opaque(opaque) => Payload::Opaque(opaque.clone()),
        Payload::Tensors(_) => {
            let members: Vec<&Inference> = group.iter().filter_map(Ticket::inference).collect();
            Payload::Tensors(batch::concat(&members))
        }
    };
    let (requests, traced) = (group.len(), traced(group));
    Some(Call { payload, deadline, ends, trace, requests, traced })
}

/// Those of which spans are recorded.
fn traced(group: &[Ticket]) -> Vec<Arc<Traced>> {
    group.iter().filter_map(|ticket| ticket.request.traced.clone()).collect()
}

async fn deliver(shared: &Shared, slot: &Slot, mut group: Vec<Ticket>, reply: Reply) {
    let answered = Instant::now();
    let rows = group.iter().map(|ticket| ticket.rows).sum();
    if group.len() == 1 {
        if let Some(ticket) = group.pop() {
            let slot = ticket.request.chat.is_some().then(|| slot.another());
            ticket.answer(reply, (rows, answered), slot);
        }
        return;
    }
    let layout: Vec<u32> = group.iter().map(|ticket| ticket.rows).collect();
    let parts = match &reply {
        Reply::Tensors(outcome) => split(outcome, &layout).ok(),
        Reply::Opaque(_) | Reply::Stream(_) => None,
    };
    match parts {
        Some(parts) => {
            for (ticket, part) in group.into_iter().zip(parts) {
                ticket.answer(Reply::Tensors(part), (rows, answered), None);
            }
        }
        None => nobody_gets_it(shared, slot, group).await,
    }
}

/// The answer does not have the rows of the batch: no member may be given any of it. They are computed again,
/// each alone, where that is allowed.
async fn nobody_gets_it(shared: &Shared, slot: &Slot, group: Vec<Ticket>) {
    shared.suspend_merging("wrong_rows");
    for ticket in group {
        if ticket.past.attempts.may_follow(shared, &CallError::BadResponse) {
            send_back(shared, slot, ticket, &CallError::BadResponse).await;
        } else {
            ticket.fail(Error::Upstream(CallError::BadResponse));
        }
    }
}

/// Fails the members of a call, or sends them back to the queue for another replica.
async fn settle(shared: &Shared, slot: &Slot, group: Vec<Ticket>, error: &CallError) {
    let repeats = repeats(shared, error, group.iter().map(|ticket| ticket.past.attempts));
    for ticket in group {
        if repeats && ticket.past.attempts.may_follow(shared, error) {
            send_back(shared, slot, ticket, error).await;
        } else {
            ticket.fail(Error::Upstream(error.clone()));
        }
    }
}

async fn send_back(shared: &Shared, slot: &Slot, mut ticket: Ticket, error: &CallError) {
    ticket.past = ticket.past.and(&slot.seat, error);
    if let Some(traced) = &ticket.request.traced {
        traced.enqueued(Instant::now());
    }
    shared.waiting.enter();
    if let Err(closed) = shared.returns.send(ticket).await {
        shared.waiting.leave(1);
        closed.0.fail(Error::Internal);
    }
}

/// Whatever becomes of a check, it is over: one without a result is made again with the next requests.
struct Check<'a>(&'a Shared);

impl Drop for Check<'_> {
    fn drop(&mut self) {
        self.0.conclude_check(Merging::Unchecked);
    }
}

/// Answers each member from a call of its own, then asks once more for all together and compares.
async fn run_check(shared: &Shared, slot: &Slot, members: Vec<Ticket>) {
    let _check = Check(shared);
    let mut compared: Vec<(Inference, u32, Outcome)> = Vec::new();
    let trace = members.first().map(|ticket| ticket.request.trace.clone()).unwrap_or_default();
    for ticket in members.into_iter().filter(|ticket| !ticket.responder.is_abandoned()) {
        compared.extend(answer_alone(shared, slot, ticket).await);
    }
    if compared.len() < 2 {
        return;
    }
    let merged = batch::concat(&compared.iter().map(|(inference, ..)| inference).collect::<Vec<_>>());
    let deadline = Instant::now() + CHECK_PATIENCE;
    let (payload, requests) = (Payload::Tensors(merged), compared.len());
    // It answers nobody: its members were answered, and their spans may have ended.
    let call = Call { payload, deadline, ends: deadline, trace, requests, traced: Vec::new() };
    let layout: Vec<u32> = compared.iter().map(|(_, rows, _)| *rows).collect();
    match attempt(shared, slot, call, Size::Rows(layout.iter().sum())).await {
        Ok(Reply::Tensors(outcome)) => conclude(shared, &compared, &outcome, &layout),
        Err(CallError::NotSent | CallError::Busy { .. }) => {}
        Ok(Reply::Opaque(_) | Reply::Stream(_)) | Err(_) => shared.suspend_merging("self_check"),
    }
}

/// Answers one member of a check; what was asked and answered, if it was.
async fn answer_alone(shared: &Shared, slot: &Slot, ticket: Ticket) -> Option<(Inference, u32, Outcome)> {
    let mut group = [ticket];
    let result = call_unless_abandoned(shared, slot, &mut group).await?;
    let [ticket] = group;
    match result {
        Ok(reply) => {
            let rows = ticket.rows;
            let compared = match (ticket.inference(), &reply) {
                (Some(inference), Reply::Tensors(outcome)) => {
                    Some((inference.clone(), rows, outcome.clone()))
                }
                _ => None,
            };
            ticket.answer(reply, (rows, Instant::now()), None);
            compared
        }
        Err(error) => {
            settle(shared, slot, vec![ticket], &error).await;
            None
        }
    }
}

fn conclude(shared: &Shared, compared: &[(Inference, u32, Outcome)], merged: &Outcome, layout: &[u32]) {
    let same = split(merged, layout)
        .is_ok_and(|parts| parts.iter().zip(compared).all(|(part, (_, _, alone))| check::same(part, alone)));
    if same {
        tracing::info!(model = %shared.config.model, requests = compared.len(), "self-check passed: requests are merged");
        shared.conclude_check(Merging::On);
    } else {
        shared.suspend_merging("self_check");
    }
}

impl Ticket {
    /// Gives the caller its answer, with where the time went.
    fn answer(self, reply: Reply, (batch_rows, answered): (u32, Instant), slot: Option<Slot>) {
        let dispatched = self.dispatched.unwrap_or(self.enqueued);
        let timings = Timings {
            queue: dispatched - self.enqueued,
            batch: answered.elapsed(),
            upstream: answered.saturating_duration_since(dispatched),
            batch_rows,
            cold_start: self.cold_start,
        };
        self.responder.respond(Ok(Answer { slot, ..Answer::new(reply, timings) }));
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
