//! One call of one gateway. Reading never waits for writing: a gateway that does not read is still heard.

use std::time::Duration;

use proto::signals::{
    GatewayMessage, LeaderMessage, Welcome, gateway_message::Message as Heard, leader_message::Message,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use super::not_leading;
use crate::collector::{Call, Follower};

/// A gateway hears from its leader at least this often.
const LIFE_EVERY: Duration = Duration::from_secs(1);
/// A gateway that reports nothing for this long is not there any more.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How long a gateway that does not read is given to take in why the call ended.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Conversation {
    pub(super) call: Call,
    pub(super) heard: Streaming<GatewayMessage>,
    pub(super) say: mpsc::Sender<Result<LeaderMessage, Status>>,
    pub(super) follower: Follower,
    pub(super) leading: watch::Receiver<Option<u64>>,
    /// The epoch that this process led in when the call began.
    pub(super) epoch: u64,
}

/// What is yet to be said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// News, and if there is none after all, nothing.
    News,
    /// News, and if there is none, a sign of life.
    Life,
}

impl Conversation {
    pub(super) async fn run(mut self, welcome: Welcome) {
        // The channel is empty: there is room for the first message.
        let _ = self.say.try_send(Ok(message(Message::Welcome(welcome))));
        let ended = self.talk().await;
        let Self { call, say, .. } = self;
        drop(call);
        if let Err(status) = ended {
            // Nobody is there to be told if this fails.
            let _ = timeout(LAST_WORD_WITHIN, say.send(Err(status))).await;
        }
    }

    /// Hears and tells until the gateway ends the call, or until there is a reason to end it.
    async fn talk(&mut self) -> Result<(), Status> {
        let mut life = interval(LIFE_EVERY);
        life.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_at = Instant::now() + SILENCE_MAX;
        let mut due = Due::Life;
        loop {
            tokio::select! {
                changed = self.leading.changed() => {
                    if changed.is_err() || *self.leading.borrow_and_update() != Some(self.epoch) {
                        return Err(not_leading());
                    }
                }
                () = self.call.replaced() => return Err(Status::aborted("another call of this gateway began")),
                () = sleep_until(silent_at) => {
                    return Err(Status::deadline_exceeded(format!("no report for {SILENCE_MAX:?}")));
                }
                heard = self.heard.message() => {
                    let Some(heard) = heard? else { return Ok(()) };
                    if self.hear(heard)? {
                        silent_at = Instant::now() + SILENCE_MAX;
                    }
                }
                _ = life.tick() => due = Due::Life,
                () = self.follower.news(), if due == Due::Nothing => due = Due::News,
                room = self.say.reserve(), if due != Due::Nothing => {
                    let Ok(room) = room else { return Ok(()) };
                    let (directives, more) = self.follower.next();
                    let empty = directives.models.is_empty() && directives.gone.is_empty();
                    if !empty || due == Due::Life {
                        room.send(Ok(message(Message::Directives(directives))));
                    }
                    due = if more { Due::News } else { Due::Nothing };
                }
            }
        }
    }

    /// Whether it was a report. What a newer gateway says besides is passed over.
    fn hear(&self, heard: GatewayMessage) -> Result<bool, Status> {
        match heard.message {
            Some(Heard::Reports(reports)) => {
                self.call.hear(reports);
                Ok(true)
            }
            Some(Heard::Hello(_)) => Err(Status::invalid_argument("a gateway says hello once")),
            None => Ok(false),
        }
    }
}

fn message(message: Message) -> LeaderMessage {
    LeaderMessage { message: Some(message) }
}
