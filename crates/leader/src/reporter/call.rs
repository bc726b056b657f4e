//! One call to one leader: what is heard and what is said do not wait for each other.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use proto::signals::{
    GatewayMessage, Hello, LeaderMessage, ModelReport, Reports, autoscaler_client::AutoscalerClient,
    gateway_message::Message, leader_message::Message as Heard,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Endpoint};

use super::{Connect, Shared};

/// Every model is reported this often.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// News that come within this time of a report are said together.
const GATHER: Duration = Duration::from_millis(5);
/// A leader gives a sign of life each second: one that does not for this long is not there any more.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const WELCOME_WITHIN: Duration = Duration::from_secs(3);
/// A message is closed once it has grown to this.
const MESSAGE_BYTES: usize = 256 << 10;
/// The largest message that is read.
const READ_BYTES_MAX: usize = 4 << 20;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Why a call ended, or did not come about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("its address cannot be called")]
    Address,
    #[error("it cannot be reached: {}", innermost(.0))]
    Connect(tonic::transport::Error),
    #[error("it did not answer in time")]
    NoAnswer,
    #[error("it ended the call: {:?}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
    #[error("it did not say who it is")]
    NoWelcome,
    #[error("it leads in epoch {epoch}, and {newest} has begun")]
    Superseded { epoch: u64, newest: u64 },
    #[error("it was silent for {SILENCE_MAX:?}")]
    Silent,
    #[error("it ended the call")]
    Closed,
}

/// A call that was welcomed.
pub(super) struct Call<'a> {
    heard: Listener<'a>,
    say: Speaker<'a>,
    _connected: Connected<'a>,
}

struct Listener<'a> {
    shared: &'a Shared,
    leader: Arc<str>,
    epoch: u64,
    messages: Streaming<LeaderMessage>,
}

struct Speaker<'a> {
    shared: &'a Shared,
    messages: mpsc::Sender<GatewayMessage>,
}

impl<'a> Call<'a> {
    pub(super) async fn begin(shared: &'a Shared, address: &str, connect: &Connect) -> Result<Self, Ended> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| Ended::Address)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let channel = timeout(CONNECT_WITHIN, connect(endpoint)).await.map_err(|_| Ended::NoAnswer)?;
        let mut client =
            AutoscalerClient::new(channel.map_err(Ended::Connect)?).max_decoding_message_size(READ_BYTES_MAX);
        let (messages, said) = mpsc::channel(1);
        let hello =
            Hello { gateway: shared.config.gateway.to_string(), version: shared.config.version.to_string() };
        // The channel is empty: there is room for the first message.
        let _ = messages.try_send(message(Message::Hello(hello)));
        let welcomed = async {
            let mut messages = client.signals(ReceiverStream::new(said)).await?.into_inner();
            let first = messages.message().await?;
            Ok::<_, Status>((messages, first.and_then(|first| first.message)))
        };
        let welcomed = timeout(WELCOME_WITHIN, welcomed).await.map_err(|_| Ended::NoAnswer)?;
        let (heard, Some(Heard::Welcome(welcome))) = welcomed? else { return Err(Ended::NoWelcome) };
        let epoch = welcome.epoch;
        shared.believes(epoch).map_err(|newest| Ended::Superseded { epoch, newest })?;
        Ok(Self {
            heard: Listener { shared, leader: welcome.leader.into(), epoch, messages: heard },
            say: Speaker { shared, messages },
            _connected: Connected::begin(shared),
        })
    }

    /// Hears and reports until the call ends.
    pub(super) async fn talk(self) -> Ended {
        let Self { heard, say, _connected } = self;
        tokio::select! {
            ended = heard.listen() => ended,
            ended = say.speak() => ended,
        }
    }
}

impl Listener<'_> {
    async fn listen(mut self) -> Ended {
        loop {
            let heard = match timeout(SILENCE_MAX, self.messages.message()).await {
                Err(_) => return Ended::Silent,
                Ok(Err(status)) => return status.into(),
                Ok(Ok(None)) => return Ended::Closed,
                Ok(Ok(Some(heard))) => heard,
            };
            // What a newer leader says besides is passed over.
            if let Some(Heard::Directives(directives)) = heard.message {
                self.shared.hear(directives, &self.leader, self.epoch);
            }
        }
    }
}

impl Speaker<'_> {
    async fn speak(self) -> Ended {
        let mut tick = interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let messages = tokio::select! {
                _ = tick.tick() => in_messages(self.shared.every_report(), true),
                () = self.shared.news.notified() => in_messages(self.shared.fresh_reports(), false),
            };
            for reports in messages {
                if self.messages.send(message(Message::Reports(reports))).await.is_err() {
                    // The connection is gone; the listener has heard why, if anybody has.
                    std::future::pending::<()>().await;
                }
            }
            sleep(GATHER).await;
        }
    }
}

/// Reports in as few messages as they fit into; the last one completes them, if they are all there are.
fn in_messages(models: Vec<ModelReport>, complete: bool) -> Vec<Reports> {
    let mut messages = Vec::new();
    let (mut message, mut bytes) = (Reports::default(), 0);
    for model in models {
        if bytes >= MESSAGE_BYTES {
            messages.push(std::mem::take(&mut message));
            bytes = 0;
        }
        bytes += model.encoded_len();
        message.models.push(model);
    }
    message.complete = complete;
    if complete || !message.models.is_empty() {
        messages.push(message);
    }
    messages
}

/// Says that a leader is heard until dropped.
struct Connected<'a>(&'a Shared);

impl<'a> Connected<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.connected.send_replace(true);
        Self(shared)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.lose();
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn message(message: Message) -> GatewayMessage {
    GatewayMessage { message: Some(message) }
}

/// The transport says only that something failed; its source says what.
fn innermost(error: &tonic::transport::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(bytes: usize) -> ModelReport {
        ModelReport { model: "x".repeat(bytes), ..Default::default() }
    }

    #[test]
    fn large_reports_come_in_several_messages_and_only_the_last_completes_them() {
        let messages = in_messages(vec![model(100 << 10); 10], true);
        assert_eq!(messages.iter().map(|m| m.models.len()).sum::<usize>(), 10);
        assert!(messages.len() > 2 && messages.iter().all(|m| m.encoded_len() < 2 * MESSAGE_BYTES));
        let complete: Vec<_> = messages.iter().map(|m| m.complete).collect();
        assert!(matches!(complete.split_last(), Some((true, others)) if !others.contains(&true)));
    }

    #[test]
    fn no_models_are_a_complete_report_and_no_news_is_none() {
        assert_eq!(in_messages(Vec::new(), true).len(), 1);
        assert!(in_messages(Vec::new(), false).is_empty());
    }
}
