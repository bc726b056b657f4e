//! Readers that stop reading: streams that are opened, read until their first text, and then only held.
//!
//! What such a client costs a gateway, and whether others notice, is what is tested; they are not measured themselves.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpSocket,
    time::{Instant, timeout},
};

use super::reply::StreamReader;
use crate::{connection::Body, message::Message, target::Places};

/// Bytes that the kernel may take in for a reader that reads no more: few, so that the sender notices soon.
const RECEIVE_BUFFER: u32 = 4096;

/// A stream that nobody reads; the connection closes when it is dropped.
#[derive(Debug)]
pub(crate) struct StalledReader {
    _sender: http1::SendRequest<Body>,
    _unread: Incoming,
}

/// Opens as many streams as there are messages, one connection each, and leaves them once each had some text.
pub(crate) async fn open(
    places: &Places,
    messages: Vec<Message>,
    limit: Duration,
) -> anyhow::Result<Vec<StalledReader>> {
    let mut readers = Vec::with_capacity(messages.len());
    for (number, message) in messages.into_iter().enumerate() {
        let reader = timeout(limit, stall(places, &message)).await.context("no text in time").flatten();
        readers.push(reader.with_context(|| format!("stalled reader {number}"))?);
    }
    Ok(readers)
}

async fn stall(places: &Places, message: &Message) -> anyhow::Result<StalledReader> {
    let address = places.next()?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let stream = socket.connect(address).await.context("cannot connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender and the body, both of which the reader holds.
    tokio::spawn(connection);
    let response = sender.send_request(message.request()).await?;
    ensure!(response.status().is_success(), "HTTP {}", response.status());
    let mut body = response.into_body();
    let mut stream = StreamReader::default();
    while !stream.has_started() {
        let Some(frame) = body.frame().await else { bail!("the stream ended before any text") };
        if let Ok(data) = frame?.into_data()
            && let Err(outcome) = stream.feed(&data, Instant::now())
        {
            bail!("{outcome}");
        }
    }
    Ok(StalledReader { _sender: sender, _unread: body })
}
