//! `Autoscaler.Signals` over the collector: each gateway that calls is welcomed, told all that stands, and then
//! what changes. A process that does not lead takes nobody in, and ends every call when it leads no longer.

mod call;
mod listen;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::Stream;
pub use proto::signals::autoscaler_server::AutoscalerServer;
use proto::signals::{
    GatewayMessage, LeaderMessage, Welcome, autoscaler_server::Autoscaler, gateway_message,
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use self::call::Conversation;
pub use self::listen::serve;
use crate::collector::{Collector, Refusal};

/// The largest message that is read: the reports of a model with calls on very many replicas fit.
const READ_BYTES_MAX: usize = 1 << 20;
/// How long a gateway may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
const NOT_LEADING: &str = "this process does not lead";

/// The service that gateways call.
#[derive(Debug)]
pub struct Signals {
    collector: Collector,
    name: Arc<str>,
    leading: watch::Receiver<Option<u64>>,
}

impl Signals {
    /// The service, for [`serve`]. `name` is what gateways know this process by; `leading` holds the epoch for as
    /// long as it leads.
    #[must_use]
    pub fn service(
        collector: Collector,
        name: Arc<str>,
        leading: watch::Receiver<Option<u64>>,
    ) -> AutoscalerServer<Self> {
        AutoscalerServer::new(Self { collector, name, leading }).max_decoding_message_size(READ_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Autoscaler for Signals {
    type SignalsStream = Messages;

    async fn signals(
        &self,
        request: Request<Streaming<GatewayMessage>>,
    ) -> Result<Response<Messages>, Status> {
        let mut leading = self.leading.clone();
        let epoch = leading.borrow_and_update().ok_or_else(not_leading)?;
        let mut heard = request.into_inner();
        let hello = timeout(HELLO_WITHIN, hello(&mut heard)).await;
        let hello = hello.map_err(|_| Status::deadline_exceeded("a gateway says hello first"))??;
        let call = self.collector.join(&hello).map_err(|refusal| match refusal {
            Refusal::Name => Status::invalid_argument(refusal.to_string()),
            Refusal::TooMany => Status::resource_exhausted(refusal.to_string()),
        })?;
        // One message on its way: what the gateway has no room for stays on the board, where newer replaces older.
        let (say, messages) = mpsc::channel(1);
        let welcome = Welcome { leader: self.name.to_string(), epoch };
        let follower = self.collector.follow();
        let conversation = Conversation { call, heard, say, follower, leading, epoch };
        let task = AbortOnDropHandle::new(tokio::spawn(conversation.run(welcome)));
        Ok(Response::new(Messages { messages: ReceiverStream::new(messages), _task: task }))
    }
}

async fn hello(heard: &mut Streaming<GatewayMessage>) -> Result<proto::signals::Hello, Status> {
    let first = heard.message().await?.and_then(|first| first.message);
    match first {
        Some(gateway_message::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("a gateway says hello first")),
    }
}

fn not_leading() -> Status {
    Status::failed_precondition(NOT_LEADING)
}

/// What one gateway is told. Its call ends when this is dropped.
#[derive(Debug)]
pub struct Messages {
    messages: ReceiverStream<Result<LeaderMessage, Status>>,
    _task: AbortOnDropHandle<()>,
}

impl Stream for Messages {
    type Item = Result<LeaderMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.messages).poll_next(context)
    }
}
