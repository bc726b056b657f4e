//! The Open Inference Protocol over gRPC.

use std::sync::Arc;

use proto::inference::{
    ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest,
    ModelStatisticsResponse, ModelStreamInferResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::GrpcInferenceService, repository_index_response::ModelIndex,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    engine::VERSION,
    error::Error,
    serving::{Served, Serving},
};

pub(crate) const SERVER_NAME: &str = "tidegate-model-server";
pub(crate) const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Extensions of the protocol that are served, by the names that clients know.
pub(crate) const EXTENSIONS: [&str; 3] = ["binary_tensor_data", "model_configuration", "statistics"];

#[derive(Debug)]
pub(crate) struct Grpc {
    serving: Arc<Serving>,
}

impl Grpc {
    pub(crate) fn new(serving: Arc<Serving>) -> Self {
        Self { serving }
    }

    async fn infer(&self, mut request: ModelInferRequest) -> Result<ModelInferResponse, Error> {
        let name = std::mem::take(&mut request.model_name);
        let served = self.serving.find(&name, &request.model_version)?;
        let decoded = convert::grpc::decode_request(request)?;
        let id = decoded.inference.id.clone();
        let outcome = self.serving.infer(served, decoded.inference).await?;
        Ok(convert::grpc::encode_response(&name, &outcome, &id, &decoded.mirror)?)
    }

    /// The statistics of one model, or of all where none is named.
    fn statistics(&self, request: &ModelStatisticsRequest) -> Result<ModelStatisticsResponse, Error> {
        let model_stats = if request.name.is_empty() {
            self.serving.ready()?;
            self.serving.models().map(Served::statistics).collect()
        } else {
            vec![self.serving.find(&request.name, &request.version)?.statistics()]
        };
        Ok(ModelStatisticsResponse { model_stats })
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Grpc {
    type ModelStreamInferStream = tokio_stream::Pending<Result<ModelStreamInferResponse, Status>>;

    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.serving.ready().is_ok() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let request = request.get_ref();
        let ready = match self.serving.find(&request.name, &request.version) {
            Err(Error::Loading | Error::Stopping) => false,
            found => found.map(|_| true)?,
        };
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: SERVER_VERSION.to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let request = request.get_ref();
        let served = self.serving.find(&request.name, &request.version)?;
        Ok(Response::new(convert::metadata::to_grpc(served.metadata())))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        Ok(Response::new(self.infer(request.into_inner()).await?))
    }

    async fn model_stream_infer(
        &self,
        _: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        Err(Error::Unsupported("ModelStreamInfer").into())
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let request = request.get_ref();
        let served = self.serving.find(&request.name, &request.version)?;
        let config = convert::metadata::config_grpc(served.metadata(), self.serving.batch_size_max(served));
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        Ok(Response::new(self.statistics(request.get_ref())?))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let ready = self.serving.ready().is_ok();
        let state = if ready { "READY" } else { "UNAVAILABLE" };
        let listed = |served: &Served| ModelIndex {
            name: served.metadata().name.clone(),
            version: VERSION.to_owned(),
            state: state.to_owned(),
            reason: String::new(),
        };
        let only_ready = request.get_ref().ready;
        let models =
            if only_ready && !ready { Vec::new() } else { self.serving.models().map(listed).collect() };
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        _: Request<RepositoryModelLoadRequest>,
    ) -> Result<Response<RepositoryModelLoadResponse>, Status> {
        Err(Error::Unsupported("RepositoryModelLoad").into())
    }

    async fn repository_model_unload(
        &self,
        _: Request<RepositoryModelUnloadRequest>,
    ) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
        Err(Error::Unsupported("RepositoryModelUnload").into())
    }
}
