//! Calls of the Open Inference Protocol: tells gRPC from REST by the content type.

use std::{convert::Infallible, sync::Arc};

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::{Code, body::Body, codegen::Service as _};

use crate::{body::BODY_BYTES_MAX, connection::Calls, grpc::Grpc, rest, serving::Serving};

/// Hands calls to REST or gRPC.
#[derive(Clone, Debug)]
pub(crate) struct InferenceCalls {
    serving: Arc<Serving>,
    grpc: GrpcInferenceServiceServer<Grpc>,
}

impl InferenceCalls {
    pub(crate) fn new(serving: Arc<Serving>) -> Self {
        let grpc = GrpcInferenceServiceServer::new(Grpc::new(Arc::clone(&serving)))
            .max_decoding_message_size(BODY_BYTES_MAX);
        Self { serving, grpc }
    }
}

impl Calls for InferenceCalls {
    type Body = Body;
    type Error = Infallible;

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            let mut grpc = self.grpc;
            return grpc.call(request.map(Body::new)).await.map(with_oversize_code);
        }
        Ok(rest::answer(&self.serving, request).await.map(Body::new))
    }

    fn stopping(&self) -> &CancellationToken {
        self.serving.stopping()
    }
}

/// tonic calls an oversized message OUT_OF_RANGE, which clients read as an index beyond an end; nothing else
/// here answers with that code.
fn with_oversize_code(mut response: Response<Body>) -> Response<Body> {
    if let Some(status) = response.headers_mut().get_mut("grpc-status")
        && *status == "11"
    {
        *status = HeaderValue::from(Code::ResourceExhausted as i32);
    }
    response
}
