//! The end: of a client, of the gateway.

use std::time::Duration;

use gateway::{Config, Drained, Shutdown, upstream::Protocol};

use crate::rig::{Rig, Setup};

const CALL: &str = "POST /v2/models/resnet50/infer HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}";

fn draining(accept_for: Duration, drain: Duration) -> Rig {
    let config = Config { shutdown: Shutdown { accept_for, drain }, ..Config::default() };
    Setup { config, gated: true, ..Setup::passing(Protocol::V2Http) }.start()
}

#[tokio::test]
async fn a_drain_finishes_open_calls_and_takes_no_new_ones() {
    let mut rig = draining(Duration::from_millis(200), Duration::from_secs(10));
    let mut idle = rig.connect().await;
    idle.send("GET /v2 HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(idle.response().await.unwrap().header("connection"), "");
    let mut open = rig.connect().await;
    open.send(CALL).await;
    rig.asked(1).await;

    rig.shutdown.cancel();
    let while_accepting = loop {
        let ready = rig.get("/v2/health/ready").await;
        if ready.status == 503 {
            break ready;
        }
    };
    assert_eq!(while_accepting.header("connection"), "close");
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    assert!(tokio::net::TcpStream::connect(rig.address).await.is_err(), "nothing new is accepted");

    rig.gate.as_ref().unwrap().notify_one();
    let answer = open.response().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    assert_eq!((&mut rig.server).await.unwrap(), Drained::Clean);
}

#[tokio::test]
async fn what_does_not_finish_is_cut_off() {
    let mut rig = draining(Duration::ZERO, Duration::from_millis(100));
    let mut open = rig.connect().await;
    open.send(CALL).await;
    rig.asked(1).await;
    rig.shutdown.cancel();
    assert_eq!(open.rest().await, b"");
    assert_eq!((&mut rig.server).await.unwrap(), Drained::CutOff(1));
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_memory_back() {
    let rig = Setup { gated: true, ..Setup::passing(Protocol::V2Http) }.start();
    let mut leaving = rig.connect().await;
    leaving.send(CALL).await;
    rig.asked(1).await;
    assert!(rig.memory.available() < 64 << 20);
    drop(leaving);
    let given_back = async {
        while rig.memory.available() < 64 << 20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), given_back).await.unwrap();
}
