use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use fake_cluster::{Cluster, Server};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{CONFIG_MAPS, config_map};

async fn connection(server: &Server) -> http1::SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn get(
    sender: &mut http1::SendRequest<Empty<Bytes>>,
    path: &str,
) -> hyper::Result<http::Response<Incoming>> {
    let request = Request::get(path).header("host", "localhost").body(Empty::new()).unwrap();
    sender.send_request(request).await
}

#[tokio::test]
async fn the_same_cluster_is_served_on_loopback_and_breaks_when_it_goes_down() {
    let cluster = Cluster::new();
    let server = Server::start(&cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    cluster.create("configmaps", config_map("a", "web")).unwrap();
    let mut sender = connection(&server).await;
    let list = get(&mut sender, CONFIG_MAPS).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["items"][0]["metadata"]["name"], "a");

    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", cluster.revision());
    let mut watch = get(&mut sender, &path).await.unwrap().into_body();
    cluster.create("configmaps", config_map("b", "web")).unwrap();
    let event = watch.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&event).unwrap()["type"], "ADDED");

    cluster.down();
    assert!(watch.frame().await.is_none_or(|frame| frame.is_err()));
    let mut sender = connection(&server).await;
    assert!(get(&mut sender, "/readyz").await.is_err());
    cluster.up();
    let mut sender = connection(&server).await;
    assert_eq!(get(&mut sender, "/readyz").await.unwrap().status(), 200);
    assert!(server.kubeconfig(Some("secret")).contains(&server.url()));
}
