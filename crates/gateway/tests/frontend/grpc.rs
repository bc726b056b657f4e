//! The gRPC surface, with a generated client for what is right and raw frames for what is not.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use gateway::{Config, Limits, Readiness, upstream::Protocol};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pipeline::{Error, Rejection, request::Payload};
use prost::Message as _;
use proto::inference::{
    ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, RepositoryIndexRequest,
    grpc_inference_service_client::GrpcInferenceServiceClient, model_infer_request::InferInputTensor,
};
use tokio::net::TcpStream;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::rig::{Rig, Setup};

const METHOD: &str = "/inference.GRPCInferenceService/ModelInfer";

async fn channel(rig: &Rig) -> Channel {
    Channel::from_shared(format!("http://{}", rig.address)).unwrap().connect().await.unwrap()
}

async fn client(rig: &Rig) -> GrpcInferenceServiceClient<Channel> {
    GrpcInferenceServiceClient::new(channel(rig).await)
}

fn infer(model: &str) -> ModelInferRequest {
    let data: Vec<u8> = [1.5f32, 2.0].into_iter().flat_map(f32::to_le_bytes).collect();
    ModelInferRequest {
        model_name: model.into(),
        id: "7".into(),
        inputs: vec![InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 2],
            ..Default::default()
        }],
        raw_input_contents: vec![data.into()],
        ..Default::default()
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame
}

/// Code, message and trailers of a raw call.
async fn raw(rig: &Rig, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, HeaderMap) {
    let stream = TcpStream::connect(rig.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut request = Request::post(format!("http://h{path}"));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/grpc");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or(head.headers);
    driver.abort();
    (head.status.as_u16(), trailers)
}

#[tokio::test]
async fn a_message_is_decoded_or_passed_and_answered_the_same() {
    for setup in [Setup::default(), Setup::passing(Protocol::V2Grpc)] {
        let passes = setup.passes_through;
        let rig = setup.start();
        let response = client(&rig).await.model_infer(infer("resnet50")).await.unwrap();
        assert_eq!(response.metadata().get("x-tidegate-batch-rows").unwrap(), "3");
        assert!(response.metadata().contains_key("server-timing"));
        assert_eq!(response.metadata().get("x-request-id").unwrap().len(), 26);
        let seen = rig.seen().remove(0);
        match seen.payload {
            Payload::Opaque(opaque) => {
                assert!(passes);
                assert_eq!(ModelInferRequest::decode(opaque.body).unwrap(), infer("resnet50"));
            }
            Payload::Tensors(_) => {
                assert!(!passes);
                let answer = response.into_inner();
                assert_eq!((answer.model_name.as_str(), answer.id.as_str()), ("resnet50", "7"));
                assert_eq!(answer.raw_output_contents, infer("").raw_input_contents);
            }
        }
        assert_eq!(rig.memory.available(), 64 << 20);
    }
}

#[tokio::test]
async fn bad_calls_get_the_promised_code() {
    let config = Config { limits: Limits { body: 1 << 20, ..Limits::default() }, ..Config::default() };
    let rig = Setup { config, ..Setup::default() }.start();
    let good = || framed(&infer("resnet50").encode_to_vec());
    let two = [good(), good()].concat();
    let both = {
        let mut message = infer("resnet50");
        message.raw_input_contents.push(Bytes::new());
        framed(&message.encode_to_vec())
    };
    let compressed = [&[1], &good()[1..]].concat();
    for (headers, body, code, reason) in [
        (&[][..], good(), "0", ""),
        (&[], vec![], "3", "bad_request"),
        (&[], vec![0, 0, 0], "3", "bad_request"),
        (&[], framed(b"\xff\xff"), "3", "bad_request"),
        (&[], framed(b""), "3", "bad_request"),
        (&[], two, "3", "bad_request"),
        (&[], both, "3", "bad_tensor"),
        (&[], framed(&infer("resnet5").encode_to_vec()), "5", "model_not_found"),
        (&[], framed(&infer("../etc").encode_to_vec()), "3", "bad_request"),
        (&[], compressed, "3", "bad_request"),
        (&[], vec![0, 0x10, 0, 0, 1], "8", "body_too_large"),
        (&[("grpc-encoding", "snappy")], good(), "12", "unsupported_media_type"),
        (&[("grpc-timeout", "10")], good(), "3", "bad_deadline"),
        (&[("grpc-timeout", "123456789m")], good(), "3", "bad_deadline"),
        (&[("grpc-timeout", "0n")], good(), "4", "deadline_exceeded"),
        (&[("grpc-timeout", "99999999H")], good(), "0", ""),
    ] {
        let (status, trailers) = raw(&rig, METHOD, headers, body).await;
        let shown = format!("{headers:?} {trailers:?}");
        assert_eq!(status, 200, "{shown}");
        assert_eq!(trailers["grpc-status"], code, "{shown}");
        let given = trailers.get("x-tidegate-reason").map_or("", |value| value.to_str().unwrap());
        assert_eq!(given, reason, "{shown}");
    }
    let (_, refused) = raw(&rig, METHOD, &[("grpc-encoding", "snappy")], good()).await;
    assert_eq!(refused["grpc-accept-encoding"], "identity,gzip,deflate");
}

#[tokio::test]
async fn methods_that_are_not_there_are_unimplemented() {
    let rig = Setup::default().start();
    for (path, reason) in [
        ("/inference.GRPCInferenceService/SystemSharedMemoryStatus", "unsupported"),
        ("/inference.GRPCInferenceService/LogSettings", "unsupported"),
        ("/inference.GRPCInferenceService/Nothing", "route_not_found"),
        ("/some.Other/Method", "route_not_found"),
        ("/grpc.channelz.v1.Channelz/GetTopChannels", "route_not_found"),
    ] {
        let (_, trailers) = raw(&rig, path, &[], framed(b"")).await;
        assert_eq!(trailers["grpc-status"], "12", "{path}");
        assert_eq!(trailers["x-tidegate-reason"], reason, "{path}");
    }
    let (status, _) = raw(&rig, METHOD, &[("content-type", "application/json")], framed(b"")).await;
    assert_eq!(status, 415);
}

#[tokio::test]
async fn an_error_says_why_and_when_to_come_back() {
    let error: Error = Rejection::NoReplicas { retry_after: Duration::from_millis(2300) }.into();
    let rig = Setup::failing(error).start();
    let status = client(&rig).await.model_infer(infer("resnet50")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "2300");
    assert_eq!(status.metadata().get("x-tidegate-reason").unwrap(), "no_replicas");
    let details = String::from_utf8_lossy(status.details());
    assert!(details.contains("google.rpc.ErrorInfo") && details.contains("no_replicas"), "{details}");
    assert!(details.contains("google.rpc.RetryInfo"), "{details}");
}

#[tokio::test]
async fn a_stream_answers_in_order_and_outlives_a_bad_message() {
    let rig = Setup::default().start();
    let messages = ["resnet50", "nobody", "resnet50"].map(infer);
    let answers = client(&rig).await.model_stream_infer(futures_util::stream::iter(messages)).await.unwrap();
    let answers: Vec<_> = answers.into_inner().map(|answer| answer.unwrap()).collect().await;
    assert_eq!(answers.len(), 3);
    assert!(answers[0].infer_response.is_some() && answers[2].infer_response.is_some());
    assert!(answers[1].error_message.contains("\"nobody\" not found"), "{answers:?}");
    assert!(answers[1].infer_response.is_none());
}

#[tokio::test]
async fn the_other_methods_tell_what_is_served() {
    let rig = Setup { readiness: Readiness::Zero, ..Setup::default() }.start();
    let mut client = client(&rig).await;
    let ready = ModelReadyRequest { name: "resnet50".into(), ..Default::default() };
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    let asked = ModelMetadataRequest { name: "resnet50".into(), ..Default::default() };
    let metadata = client.model_metadata(asked).await.unwrap().into_inner();
    assert_eq!((metadata.name.as_str(), metadata.inputs[0].name.as_str()), ("resnet50", "x"));
    let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert_eq!(index.models[0].name, "resnet50");
}

#[tokio::test]
async fn health_is_told_overall_and_per_model() {
    let rig = Setup::default().start();
    let mut health = HealthClient::new(channel(&rig).await);
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    for service in ["", "resnet50"] {
        assert_eq!(health.check(ask(service)).await.unwrap().into_inner().status, 1, "{service}");
    }
    assert_eq!(health.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
    let mut unknown = health.watch(ask("nobody")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status, 3, "SERVICE_UNKNOWN, and open");
    let mut watch = health.watch(ask("resnet50")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    rig.readiness.send_replace(Readiness::Off);
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    rig.shutdown.cancel();
    assert!(watch.message().await.unwrap().is_none(), "a watch ends with the gateway");
}

#[tokio::test]
async fn health_and_reflection_refuse_as_all_methods_do() {
    let config = Config { limits: Limits { body: 1 << 20, ..Limits::default() }, ..Config::default() };
    let rig = Setup { config, ..Setup::default() }.start();
    const CHECK: &str = "/grpc.health.v1.Health/Check";
    const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let unknown = framed(&HealthCheckRequest { service: "nobody".into() }.encode_to_vec());
    for (path, headers, body, code, reason) in [
        (CHECK, &[][..], framed(b""), "0", ""),
        (CHECK, &[], unknown, "5", "model_not_found"),
        (CHECK, &[], vec![], "3", "bad_request"),
        (CHECK, &[], vec![0, 0, 0, 0, 9, 1], "3", "bad_request"),
        (CHECK, &[], framed(b"\xff\xff"), "3", "bad_request"),
        (CHECK, &[], vec![7, 0, 0, 0, 0], "3", "bad_request"),
        (CHECK, &[], vec![1, 0, 0, 0, 0], "3", "bad_request"),
        (CHECK, &[], vec![0, 0xff, 0xff, 0xff, 0xff], "8", "body_too_large"),
        (CHECK, &[("grpc-timeout", "x")], framed(b""), "3", "bad_deadline"),
        (CHECK, &[("grpc-timeout", "0n")], framed(b""), "4", "deadline_exceeded"),
        (CHECK, &[("grpc-encoding", "snappy")], framed(b""), "12", "unsupported_media_type"),
        ("/grpc.health.v1.Health/Nothing", &[], framed(b""), "12", "route_not_found"),
        (REFLECT, &[], framed(b"\x3a\x01*"), "0", ""),
        (REFLECT, &[], framed(b"\xff\xff"), "3", "bad_request"),
        (REFLECT, &[], vec![0, 0xff, 0xff, 0xff, 0xff], "8", "body_too_large"),
        (REFLECT, &[("grpc-encoding", "snappy")], framed(b""), "12", "unsupported_media_type"),
        ("/grpc.reflection.v1.ServerReflection/Nothing", &[], framed(b""), "12", "route_not_found"),
    ] {
        let (status, trailers) = raw(&rig, path, headers, body).await;
        let shown = format!("{path} {headers:?} {trailers:?}");
        assert_eq!((status, trailers["grpc-status"].to_str().unwrap()), (200, code), "{shown}");
        let given = trailers.get("x-tidegate-reason").map_or("", |value| value.to_str().unwrap());
        assert_eq!(given, reason, "{shown}");
    }
    let mut health = HealthClient::new(channel(&rig).await);
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.metadata_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    assert_eq!(watch.message().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn reflection_is_served_in_both_versions() {
    let rig = Setup::default().start();
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        // ServerReflectionRequest { list_services: "*" }
        let (_, trailers) = raw(&rig, &path, &[], framed(b"\x3a\x01*")).await;
        assert_eq!(trailers["grpc-status"], "0", "{version}");
    }
}
