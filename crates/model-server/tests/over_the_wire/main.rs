//! The server on a real socket, called over REST and gRPC.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails a test")]

mod chat;
mod client;

use std::time::Duration;

use client::{Example, Rest, fp32, int64, raw, start, typed};
use http::StatusCode;
use model_server::{Model, Options, Server};
use proto::inference::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, ServerLiveRequest, ServerMetadataRequest,
    ServerReadyRequest, model_infer_request::InferRequestedOutputTensor,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tonic::Code;

#[tokio::test]
async fn every_held_out_digit_gets_its_recorded_class_by_every_way_in() {
    let server = start(Options::default()).await;
    let mut rest = Rest::connect(server.address).await;
    let mut grpc = client::grpc(server.address).await;
    for samples in client::held_out().chunks(64) {
        let expected: Vec<i64> = samples.iter().map(|sample| sample.predicted).collect();
        let rows = i64::try_from(samples.len()).unwrap();
        let pixels: Vec<f32> = samples.iter().flat_map(|sample| sample.pixels.clone()).collect();

        let body = json!({"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [rows, 64], "data": pixels}],
            "outputs": [{"name": "class"}]});
        let reply = rest.post("/v2/models/digits/infer", &[], body.to_string()).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.json()["outputs"][0]["data"], json!(expected));

        let reply = rest.binary_digits(rows, &pixels).await;
        assert_eq!(client::int64s(&reply.binary()), expected);

        let request = raw("digits", vec![fp32("pixels", &[rows, 64], &pixels)]);
        let answer = grpc.model_infer(request).await.unwrap().into_inner();
        assert_eq!(client::int64s(&answer.raw_output_contents[0]), expected);

        let request = typed("digits", vec![fp32("pixels", &[rows, 64], &pixels)]);
        let answer = grpc.model_infer(request).await.unwrap().into_inner();
        assert!(answer.raw_output_contents.is_empty());
        assert_eq!(answer.outputs[0].contents.as_ref().unwrap().int64_contents, expected);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn several_named_inputs_of_different_types_work_over_both_protocols() {
    let server = start(Options::default()).await;
    let mut rest = Rest::connect(server.address).await;
    let body = json!({"id": "seven", "inputs": [
        {"name": "weights", "datatype": "FP32", "shape": [2, 3], "data": [0.5, 1, 1.5, 2, 2.5, 3]},
        {"name": "ids", "datatype": "INT64", "shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6]]}]});
    let reply = rest.post("/v2/models/mixed/versions/1/infer", &[], body.to_string()).await;
    let answer = reply.json();
    assert_eq!((&answer["id"], &answer["model_name"]), (&json!("seven"), &json!("mixed")), "{answer}");
    assert_eq!(answer["outputs"][0]["data"], json!([7.0, 38.5]));
    assert_eq!(answer["outputs"][1]["data"], json!([1, 2, 3, 4, 5, 6]));

    let inputs = vec![int64("ids", &[1, 3], &[4, 5, 6]), fp32("weights", &[1, 3], &[1.0, 0.0, 0.5])];
    let echo = InferRequestedOutputTensor { name: "echo".to_owned(), ..Default::default() };
    let request = ModelInferRequest { id: "eight".to_owned(), outputs: vec![echo], ..raw("mixed", inputs) };
    let answer = client::grpc(server.address).await.model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.id, "eight");
    assert_eq!(answer.outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["echo"]);
    assert_eq!(client::int64s(&answer.raw_output_contents[0]), [4, 5, 6]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_sample_request_is_answered() {
    let server = start(Options::default()).await;
    let body = std::fs::read_to_string(client::examples().join("requests/digits-v2.json")).unwrap();
    let reply = Rest::connect(server.address).await.post("/v2/models/digits/infer", &[], body).await;
    assert_eq!(reply.json()["outputs"][0]["data"], json!([client::held_out()[0].predicted]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_raw_body_is_the_one_input_itself() {
    let server = start(Options::default()).await;
    let Example { pixels, predicted, .. } = client::held_out().swap_remove(3);
    let body: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let headers = [("inference-header-content-length", "0".to_owned())];
    let reply = Rest::connect(server.address).await.post("/v2/models/digits/infer", &headers, body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(client::int64s(&reply.binary())[..1], [predicted]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_describes_itself_and_its_models_over_rest() {
    let server = start(Options::default()).await;
    let mut rest = Rest::connect(server.address).await;
    let metadata = rest.get("/v2/models/digits").await.json();
    assert_eq!(metadata["inputs"], json!([{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]));
    assert_eq!(metadata["versions"], json!(["1"]));
    assert_eq!(rest.get("/v2/models/digits/ready").await.status, StatusCode::OK);
    assert_eq!(rest.get("/v2/models/digits/config").await.json()["max_batch_size"], json!(1024));
    assert!(
        rest.get("/v2").await.json()["extensions"].as_array().unwrap().contains(&json!("binary_tensor_data"))
    );
    let index = rest.post("/v2/repository/index", &[], "{}").await.json();
    assert_eq!(index[1], json!({"name": "mixed", "version": "1", "state": "READY"}));

    let pixels = vec![0.0; 128];
    rest.binary_digits(2, &pixels).await;
    let stats = &rest.get("/v2/models/digits/stats").await.json()["model_stats"][0];
    assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(2), &json!(1)));
    assert_eq!(stats["batch_stats"][0]["batch_size"], json!(2));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_describes_itself_and_its_models_over_grpc() {
    let server = start(Options::default()).await;
    let mut grpc = client::grpc(server.address).await;
    assert!(grpc.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(grpc.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let ready = ModelReadyRequest { name: "mixed".to_owned(), version: "1".to_owned() };
    assert!(grpc.model_ready(ready).await.unwrap().into_inner().ready);
    let about = grpc.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(about.name, "tidegate-model-server");
    let request = ModelMetadataRequest { name: "mixed".to_owned(), ..Default::default() };
    let metadata = grpc.model_metadata(request).await.unwrap().into_inner();
    let shapes: Vec<_> =
        metadata.inputs.iter().map(|input| (input.name.as_str(), input.shape.as_slice())).collect();
    assert_eq!(shapes, [("ids", &[-1, 3][..]), ("weights", &[-1, 3])]);
    let request = ModelConfigRequest { name: "mixed".to_owned(), ..Default::default() };
    let config = grpc.model_config(request).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.max_batch_size, config.input.len()), (1024, 2));
    let statistics = grpc.model_statistics(ModelStatisticsRequest::default()).await.unwrap().into_inner();
    assert_eq!(statistics.model_stats.len(), 2);
    let index = grpc.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert_eq!(index.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["digits", "mixed"]);
    server.stop().await.unwrap();
}

/// One input of `mixed` as JSON, and another that fits it.
fn mixed(ids: Value) -> String {
    let weights = json!({"name": "weights", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]});
    json!({"inputs": [weights, ids]}).to_string()
}

fn ids(shape: Value, data: Value) -> String {
    mixed(json!({"name": "ids", "datatype": "INT64", "shape": shape, "data": data}))
}

#[tokio::test]
async fn a_bad_rest_call_is_refused_with_the_status_and_sentence_of_its_fault() {
    let server = start(Options::default()).await;
    let mut rest = Rest::connect(server.address).await;
    let infer = "/v2/models/mixed/infer";
    let good = ids(json!([1, 3]), json!([1, 2, 3]));
    let rows = json!({"inputs": [
        {"name": "ids", "datatype": "INT64", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]},
        {"name": "weights", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]});
    let many = json!({"inputs": [
        {"name": "ids", "datatype": "INT64", "shape": [1025, 3], "data": vec![0; 3075]},
        {"name": "weights", "datatype": "FP32", "shape": [1025, 3], "data": vec![0; 3075]}]});
    let bool_ids =
        mixed(json!({"name": "ids", "datatype": "BOOL", "shape": [1, 3], "data": [true, true, true]}));
    let table: Vec<(&str, &str, String, u16, &str)> = vec![
        ("POST", infer, good.clone(), 200, ""),
        ("POST", infer, "{".to_owned(), 400, "not valid JSON"),
        ("POST", infer, String::new(), 400, "not valid JSON"),
        ("POST", infer, "{}".to_owned(), 400, "inputs"),
        ("POST", infer, json!({"inputs": []}).to_string(), 400, "inputs"),
        (
            "POST",
            infer,
            mixed(json!({"name": "other", "datatype": "INT64", "shape": [1], "data": [1]})),
            400,
            "other",
        ),
        (
            "POST",
            infer,
            json!({"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1, 3], "data": [1, 2, 3]}]})
                .to_string(),
            400,
            "weights",
        ),
        ("POST", infer, ids(json!([1, 4]), json!([1, 2, 3])), 400, "4 values, got 3"),
        ("POST", infer, ids(json!([1, 4]), json!([1, 2, 3, 4])), 400, "[1,4]"),
        ("POST", infer, ids(json!([3]), json!([1, 2, 3])), 400, "ids"),
        ("POST", infer, ids(json!([-1, 3]), json!([1, 2, 3])), 400, "shape"),
        ("POST", infer, ids(json!([0, 3]), json!([])), 400, "ids"),
        ("POST", infer, ids(json!([1, 3]), json!([1, 2, 1.5])), 400, "data[2]"),
        ("POST", infer, bool_ids, 400, "BOOL"),
        ("POST", infer, rows.to_string(), 400, "batch size"),
        ("POST", infer, many.to_string(), 400, "1025 rows"),
        ("POST", "/v2/models/none/infer", good.clone(), 404, r#"model "none" not found"#),
        ("POST", "/v2/models/mixed/versions/2/infer", good.clone(), 404, "no version"),
        ("GET", "/v2/models/none", String::new(), 404, "none"),
        ("GET", "/v2/models/none/ready", String::new(), 404, "none"),
        ("POST", "/v3", good.clone(), 404, "no such route"),
        ("GET", infer, String::new(), 405, "POST only"),
        ("DELETE", "/v2/models/mixed", String::new(), 405, "GET, HEAD only"),
    ];
    for (method, path, body, status, sentence) in table {
        let reply = rest.call(method, path, &[], body.clone()).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path} {body}: {}", reply.text());
        if status != 200 {
            let error = reply.json()["error"].as_str().unwrap().to_owned();
            assert!(error.contains(sentence) && error.len() <= 300, "{method} {path} {body}: {error}");
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_headers_of_a_rest_call_are_refused() {
    let server = start(Options::default()).await;
    let mut rest = Rest::connect(server.address).await;
    let length = "inference-header-content-length";
    for (headers, status) in [
        (vec![(length, "-1".to_owned())], 400),
        (vec![(length, "+2".to_owned())], 400),
        (vec![(length, "99999".to_owned())], 400),
        (vec![(length, "2".to_owned()), (length, "2".to_owned())], 400),
        (vec![("content-encoding", "gzip".to_owned())], 415),
        (vec![("content-encoding", "identity".to_owned())], 200),
    ] {
        let reply = rest.post("/v2/models/mixed/infer", &headers, ids(json!([1, 3]), json!([1, 2, 3]))).await;
        assert_eq!(reply.status.as_u16(), status, "{headers:?}: {}", reply.text());
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let server = start(Options::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v2/models/mixed/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        (64 << 20) + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
    drop(stream);

    let mut grpc = client::grpc(server.address).await;
    let mut request = raw("mixed", vec![int64("ids", &[1, 3], &[1, 2, 3])]);
    request.raw_input_contents = vec![vec![0; (64 << 20) + 1].into()];
    assert_eq!(grpc.model_infer(request).await.unwrap_err().code(), Code::ResourceExhausted);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_bad_grpc_call_is_refused_with_the_code_and_sentence_of_its_fault() {
    let server = start(Options::default()).await;
    let mut grpc = client::grpc(server.address).await;
    let weights = || fp32("weights", &[1, 3], &[1.0; 3]);
    let good = || raw("mixed", vec![int64("ids", &[1, 3], &[1, 2, 3]), weights()]);
    let mut both = typed("mixed", vec![int64("ids", &[1, 3], &[1, 2, 3]), weights()]);
    both.raw_input_contents = good().raw_input_contents;
    let mut short = good();
    short.raw_input_contents[1] = vec![0; 8].into();
    let mut few = good();
    few.raw_input_contents.truncate(1);
    let mut version = good();
    version.model_version = "9".to_owned();
    let mut output = good();
    output.outputs = vec![InferRequestedOutputTensor { name: "nothing".to_owned(), ..Default::default() }];
    let mut datatype = good();
    datatype.inputs[0].datatype = "INT".to_owned();
    let table = [
        (raw("none", vec![weights()]), Code::NotFound, r#"model "none" not found"#),
        (version, Code::NotFound, "no version"),
        (raw("mixed", vec![weights()]), Code::InvalidArgument, "ids"),
        (raw("mixed", vec![weights(), weights()]), Code::InvalidArgument, "twice"),
        (raw("mixed", vec![fp32("ids", &[1, 3], &[1.0; 3]), weights()]), Code::InvalidArgument, "INT64"),
        (raw("mixed", vec![int64("ids", &[1, 2], &[1; 2]), weights()]), Code::InvalidArgument, "[1,2]"),
        (raw("mixed", vec![int64("ids", &[2, 3], &[1; 6]), weights()]), Code::InvalidArgument, "batch size"),
        (raw("mixed", vec![int64("ids", &[-1, 3], &[1; 3]), weights()]), Code::InvalidArgument, "shape"),
        (both, Code::InvalidArgument, "raw_input_contents"),
        (short, Code::InvalidArgument, "8 bytes"),
        (few, Code::InvalidArgument, "raw_input_contents"),
        (output, Code::InvalidArgument, "nothing"),
        (datatype, Code::InvalidArgument, "INT"),
    ];
    for (request, code, sentence) in table {
        let status = grpc.model_infer(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{request:?}: {status}");
        assert!(status.message().contains(sentence), "{request:?}: {status}");
    }
    grpc.model_infer(good()).await.unwrap();
    let load = grpc.repository_model_load(RepositoryModelLoadRequest::default()).await.unwrap_err();
    assert_eq!(load.code(), Code::Unimplemented);
    let stream = grpc.model_stream_infer(tokio_stream::iter([good()])).await.unwrap_err();
    assert_eq!(stream.code(), Code::Unimplemented);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_loading_server_is_live_but_refuses_calls_over_grpc() {
    let server = start(Options { start_delay: Duration::from_secs(3600), ..Options::default() }).await;
    let mut grpc = client::grpc(server.address).await;
    assert!(grpc.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(!grpc.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let ready = ModelReadyRequest { name: "mixed".to_owned(), ..Default::default() };
    assert!(!grpc.model_ready(ready).await.unwrap().into_inner().ready);
    let refused = grpc.model_infer(raw("mixed", Vec::new())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    server.stop().await.unwrap();
}

/// A call whose head the server has read, and whose body it is waiting for: `100 Continue` says so.
async fn call_in_flight(server: &client::Running, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v2/models/mixed/infer HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

#[tokio::test]
async fn a_graceful_stop_answers_the_calls_in_flight_and_takes_no_others() {
    let server = start(Options::default()).await;
    let body = ids(json!([1, 3]), json!([1, 2, 3]));
    let mut stream = call_in_flight(&server, &body).await;
    server.shutdown.cancel();
    // The listener closes once the server has noticed.
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""echo""#), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_off_when_the_time_to_drain_is_over() {
    let server = start(Options { drain: Duration::from_millis(20), ..Options::default() }).await;
    let mut stream = call_in_flight(&server, "never sent").await;
    let error = server.stop().await.unwrap_err();
    assert_eq!(error.connections, 1);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_a_stop() {
    let server = start(Options::default()).await;
    // First in the line of accepts, so that the server has it once the others are answered.
    let silent = TcpStream::connect(server.address).await.unwrap();
    let mut rest = Rest::connect(server.address).await;
    let mut grpc = client::grpc(server.address).await;
    assert_eq!(rest.get("/v2/health/ready").await.status, StatusCode::OK);
    grpc.server_live(ServerLiveRequest {}).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), server.stop()).await.expect("stops at once").unwrap();
    drop(silent);
}

#[tokio::test]
async fn a_server_needs_models_of_different_names() {
    let onnx = std::fs::read(client::examples().join("models/mixed.onnx")).unwrap();
    let model = || Model::from_bytes("twin", &onnx).unwrap();
    let error = Server::bind(vec![model(), model()], Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("twin"));
    assert!(Server::bind(Vec::new(), Options::default()).await.is_err());
    let server = Server::bind(vec![model()], Options::default()).await.unwrap();
    let taken = Options { address: server.address(), ..Options::default() };
    let error = Server::bind(vec![model()], taken).await.unwrap_err();
    assert!(error.to_string().contains("cannot listen"), "{error}");
}

#[tokio::test]
async fn the_command_line_serves_files_until_it_is_told_to_stop() {
    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: model_server::Args,
    }
    let model = client::examples().join("models/mixed.onnx");
    let words = ["x", "--port", "0", "--onnx", model.to_str().unwrap()];
    let command = <Command as clap::Parser>::try_parse_from(words).unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    model_server::run(command.args, shutdown.clone()).await.unwrap();
    let command =
        <Command as clap::Parser>::try_parse_from(["x", "--port", "0", "--chat-sim", "big"]).unwrap();
    model_server::run(command.args, shutdown).await.unwrap();
    let words = ["x", "--onnx", "no-such-file.onnx"];
    let command = <Command as clap::Parser>::try_parse_from(words).unwrap();
    let error = model_server::run(command.args, CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("no-such-file.onnx"), "{error}");
}
