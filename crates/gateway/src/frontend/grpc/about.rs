//! What is served and in which state: every method of `GRPCInferenceService` that computes nothing.

use http::Response;
use prost::Message;
use proto::inference::{
    InferStatistics, ModelConfigRequest, ModelConfigResponse, ModelMetadataRequest, ModelReadyRequest,
    ModelReadyResponse, ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, StatisticDuration,
    repository_index_response::ModelIndex,
};

use super::{Reader, SERVICE, decode, no_such_method, only, reply};
use crate::{
    frontend::{about, body::Body, call::Call, deadline::Patience},
    models::Model,
    status::{Failure, Situation},
};

/// Methods that other servers have and that make no sense through a gateway.
const UNSUPPORTED: [&str; 8] = [
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
];

pub(super) async fn answer(
    call: &mut Call,
    method: &str,
    reader: Reader,
    patience: Patience,
) -> Result<Response<Body>, Failure> {
    match method {
        "ServerLive" => {
            read::<ServerLiveRequest>(call, reader, patience).await?;
            Ok(reply(&ServerLiveResponse { live: true }))
        }
        "ServerReady" => {
            read::<ServerReadyRequest>(call, reader, patience).await?;
            Ok(reply(&ServerReadyResponse { ready: call.gateway().is_ready() }))
        }
        "ServerMetadata" => {
            read::<ServerMetadataRequest>(call, reader, patience).await?;
            Ok(reply(&server_metadata()))
        }
        "ModelReady" => {
            let asked: ModelReadyRequest = read(call, reader, patience).await?;
            let ready = call.find_model(&asked.name)?.readiness().accepts();
            Ok(reply(&ModelReadyResponse { ready }))
        }
        "ModelMetadata" | "ModelConfig" => describe(call, method, reader, patience).await,
        "ModelStatistics" => {
            let asked: ModelStatisticsRequest = read(call, reader, patience).await?;
            statistics(call, &asked)
        }
        "RepositoryIndex" | "RepositoryModelLoad" | "RepositoryModelUnload" => {
            repository(call, method, reader, patience).await
        }
        _ if UNSUPPORTED.contains(&method) => {
            let sentence = format!("{method} is not available through the gateway");
            Err(Failure::new(Situation::Unsupported, sentence))
        }
        _ => Err(no_such_method(&format!("{SERVICE}{method}"))),
    }
}

async fn read<M: Message + Default>(call: &Call, reader: Reader, patience: Patience) -> Result<M, Failure> {
    decode(only(call, reader, patience).await?.body)
}

fn server_metadata() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: about::SERVER.to_owned(),
        version: about::VERSION.to_owned(),
        extensions: about::EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

async fn describe(
    call: &mut Call,
    method: &str,
    reader: Reader,
    patience: Patience,
) -> Result<Response<Body>, Failure> {
    let name = if method == "ModelMetadata" {
        read::<ModelMetadataRequest>(call, reader, patience).await?.name
    } else {
        read::<ModelConfigRequest>(call, reader, patience).await?.name
    };
    let model = call.find_model(&name)?;
    let metadata = model.metadata(patience.deadline(model.deadlines())?).await?;
    let metadata = about::under_own_name(&metadata, &model);
    if method == "ModelMetadata" {
        return Ok(reply(&convert::metadata::to_grpc(&metadata)));
    }
    let rows = model.dispatch().stats().max_batch_rows;
    Ok(reply(&ModelConfigResponse { config: Some(convert::metadata::config_grpc(&metadata, rows)) }))
}

fn statistics(call: &mut Call, asked: &ModelStatisticsRequest) -> Result<Response<Body>, Failure> {
    let models = match asked.name.as_str() {
        "" => call.gateway().shared_models().all(),
        name => vec![call.find_model(name)?],
    };
    let model_stats = models.iter().map(|model| statistics_of(model, &asked.version)).collect();
    Ok(reply(&ModelStatisticsResponse { model_stats }))
}

fn statistics_of(model: &Model, version: &str) -> ModelStatistics {
    let stats = model.dispatch().stats();
    let count = |count| Some(StatisticDuration { count, ns: 0 });
    ModelStatistics {
        name: model.name().to_string(),
        version: version.to_owned(),
        inference_count: stats.batch_rows,
        execution_count: stats.batches,
        inference_stats: Some(InferStatistics {
            success: count(stats.completions),
            fail: count(stats.failures),
            ..InferStatistics::default()
        }),
        ..ModelStatistics::default()
    }
}

async fn repository(
    call: &mut Call,
    method: &str,
    reader: Reader,
    patience: Patience,
) -> Result<Response<Body>, Failure> {
    match method {
        "RepositoryIndex" => {
            let asked: RepositoryIndexRequest = read(call, reader, patience).await?;
            Ok(reply(&index(call, asked.ready)))
        }
        "RepositoryModelLoad" => {
            let asked: RepositoryModelLoadRequest = read(call, reader, patience).await?;
            call.find_model(&asked.model_name)?.wake();
            Ok(reply(&RepositoryModelLoadResponse {}))
        }
        _ => {
            let asked: RepositoryModelUnloadRequest = read(call, reader, patience).await?;
            call.find_model(&asked.model_name)?;
            Err(about::unload_unsupported())
        }
    }
}

fn index(call: &Call, only_ready: bool) -> RepositoryIndexResponse {
    let models = call.gateway().shared_models().all();
    let wanted = models.iter().filter(|model| !only_ready || model.readiness().accepts());
    let entry = |model: &std::sync::Arc<Model>| {
        let (state, reason) = about::repository_state(model.readiness());
        let (state, reason) = (state.to_owned(), reason.to_owned());
        ModelIndex { name: model.name().to_string(), version: String::new(), state, reason }
    };
    RepositoryIndexResponse { models: wanted.map(entry).collect() }
}
