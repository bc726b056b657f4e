//! The Open Inference Protocol over REST.

mod route;

use bytes::Bytes;
use convert::{Decoded, Encoded, Limits};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body;
use pipeline::request::Outcome;
use proto::inference::{ModelStatistics, StatisticDuration};
use serde_json::{Value, json};

use crate::{
    body::{self, BODY_BYTES_MAX},
    engine::VERSION,
    error::Error,
    grpc::{EXTENSIONS, SERVER_NAME, SERVER_VERSION},
    serving::{Served, Serving},
};
use route::{ModelRoute, Route, View};

const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Answers one call; every failure is an answer too.
pub(crate) async fn answer<B>(serving: &Serving, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut response = respond(serving, request).await.unwrap_or_else(|error| refusal(&error));
    if serving.stopping().is_cancelled() && response.version() < http::Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn respond<B>(serving: &Serving, request: Request<B>) -> Result<Response<Full<Bytes>>, Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    match Route::of(&head.method, head.uri.path())? {
        Route::Live => Ok(json_value(StatusCode::OK, &json!({ "live": true }))),
        Route::Ready => Ok(ready(serving.ready().is_ok())),
        Route::Server => {
            let about = json!({ "name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS });
            Ok(json_value(StatusCode::OK, &about))
        }
        Route::Index => Ok(json_value(StatusCode::OK, &index(serving))),
        Route::View(model, view) => show(serving, model, view),
        Route::Infer(model) => {
            let served = serving.find(model.name, model.version)?;
            let body = body::read(&head.headers, body).await?;
            infer(serving, served, &head.headers, body).await
        }
    }
}

async fn infer(
    serving: &Serving,
    served: &Served,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Full<Bytes>>, Error> {
    let Decoded { inference, mirror, .. } = decode(served, headers, &body)?;
    let id = inference.id.clone();
    let outcome: Outcome = serving.infer(served, inference).await?;
    let encoded = convert::v2::encode_response(&served.metadata().name, &outcome, &id, &mirror)?;
    Ok(encoded_response(encoded))
}

fn decode(served: &Served, headers: &HeaderMap, body: &Bytes) -> Result<Decoded, Error> {
    let length = header_length(headers)?;
    if length == Some(0) {
        return Ok(convert::v2::parse_raw(body, served.metadata())?);
    }
    let limits = Limits { decoded_bytes: BODY_BYTES_MAX };
    Ok(convert::v2::parse(body, length)?.decode(&limits)?)
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Error> {
    let mut values = headers.get_all(HEADER_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Error::HeaderLength);
    }
    let text = value.to_str().map_err(|_| Error::HeaderLength)?;
    Ok(Some(convert::v2::header_length(text)?))
}

fn show(serving: &Serving, model: ModelRoute<'_>, view: View) -> Result<Response<Full<Bytes>>, Error> {
    let served = match serving.find(model.name, model.version) {
        Err(Error::Loading | Error::Stopping) if view == View::Ready => return Ok(ready(false)),
        found => found?,
    };
    let metadata = served.metadata();
    Ok(match view {
        View::Metadata => json_bytes(StatusCode::OK, convert::metadata::to_json(metadata)),
        View::Config => {
            let config = convert::metadata::config_json(metadata, serving.batch_size_max(served));
            json_bytes(StatusCode::OK, config)
        }
        View::Ready => ready(true),
        View::Stats => {
            let stats = json!({ "model_stats": [statistics(&served.statistics())] });
            json_value(StatusCode::OK, &stats)
        }
    })
}

fn index(serving: &Serving) -> Value {
    let state = if serving.ready().is_ok() { "READY" } else { "UNAVAILABLE" };
    serving
        .models()
        .map(|served| json!({ "name": served.metadata().name, "version": VERSION, "state": state }))
        .collect()
}

fn statistics(stats: &ModelStatistics) -> Value {
    let inference = stats.inference_stats.unwrap_or_default();
    json!({
        "name": stats.name,
        "version": stats.version,
        "last_inference": stats.last_inference,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {
            "success": total(inference.success),
            "fail": total(inference.fail),
            "queue": total(inference.queue),
            "compute_infer": total(inference.compute_infer),
        },
        "batch_stats": stats.batch_stats.iter().map(|batch| json!({
            "batch_size": batch.batch_size,
            "compute_infer": total(batch.compute_infer),
        })).collect::<Vec<_>>(),
    })
}

fn total(duration: Option<StatisticDuration>) -> Value {
    let StatisticDuration { count, ns } = duration.unwrap_or_default();
    json!({ "count": count, "ns": ns })
}

fn ready(ready: bool) -> Response<Full<Bytes>> {
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_value(status, &json!({ "ready": ready }))
}

fn refusal(error: &Error) -> Response<Full<Bytes>> {
    let (status, _) = error.status();
    let mut response = json_value(status, &json!({ "error": error.to_string() }));
    if let Error::MethodNotAllowed { allow } = error {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn encoded_response(encoded: Encoded) -> Response<Full<Bytes>> {
    let content_type = HeaderValue::from_static(encoded.content_type());
    let mut response = Response::new(Full::new(encoded.body));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if let Some(length) = encoded.header_length {
        response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(length));
    }
    response
}

fn json_value(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    json_bytes(status, value.to_string().into())
}

fn json_bytes(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
