//! What a server says of its model and of itself.

use std::time::Duration;

use http::uri::PathAndQuery;
use pipeline::{CallError, tensor::Metadata};
use proto::inference::{
    ModelMetadataRequest, ModelMetadataResponse, ServerMetadataRequest, ServerMetadataResponse,
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    grpc::{Grpc, method},
    rest::{Dialect, Rest, model_path},
};

/// Longest a server may take to describe itself.
const PATIENCE: Duration = Duration::from_secs(5);
const BINARY_TENSORS: &str = "binary_tensor_data";

/// What a server says of its model and of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    pub model: Metadata,
    /// Names of the protocol's extensions that it has.
    pub extensions: Vec<String>,
}

/// Servers of V1 that also speak V2 describe their models there; V1 has no metadata of tensors.
pub(super) async fn over_rest(rest: &Rest) -> Result<Description, CallError> {
    let ask = async {
        let path = model_path(Dialect::V2, &rest.model, "").ok_or(CallError::BadResponse)?;
        let model = rest.get(path).await?;
        let model = convert::metadata::from_json(model.body()).map_err(|_error| CallError::BadResponse)?;
        // A server need not describe itself to serve.
        let server = rest.get(PathAndQuery::from_static("/v2")).await;
        let extensions = server.map(|server| extensions_in(server.body())).unwrap_or_default();
        Ok(Description { model, extensions })
    };
    let description = within(Instant::now() + PATIENCE, ask).await?;
    if description.extensions.iter().any(|extension| extension == BINARY_TENSORS) {
        rest.use_binary_tensors();
    }
    Ok(description)
}

pub(super) async fn over_grpc(grpc: &Grpc) -> Result<Description, CallError> {
    let deadline = Instant::now() + PATIENCE;
    let ask = async {
        let question = ModelMetadataRequest { name: grpc.model.to_string(), version: String::new() };
        let model: ModelMetadataResponse = grpc.ask(method::MODEL_METADATA, &question, deadline).await?;
        let model = convert::metadata::from_grpc(model).map_err(|_error| CallError::BadResponse)?;
        let server = grpc.ask(method::SERVER_METADATA, &ServerMetadataRequest {}, deadline).await;
        let server: ServerMetadataResponse = server.unwrap_or_default();
        Ok(Description { model, extensions: server.extensions })
    };
    within(deadline, ask).await
}

async fn within<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    timeout_at(deadline, answer).await.unwrap_or(Err(CallError::Deadline))
}

fn extensions_in(body: &[u8]) -> Vec<String> {
    let server: Value = serde_json::from_slice(body).unwrap_or_default();
    let names = server.get("extensions").and_then(Value::as_array).into_iter().flatten();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_read_from_whatever_a_server_says() {
        assert_eq!(
            extensions_in(br#"{"extensions":["a",1,"binary_tensor_data"]}"#),
            ["a", "binary_tensor_data"]
        );
        for body in ["", "[]", "{}", r#"{"extensions":"a"}"#] {
            assert!(extensions_in(body.as_bytes()).is_empty(), "{body}");
        }
    }
}
