//! KEDA's external scaler: for shops that leave the writing to KEDA and HPA, what Tidegate would write.
//!
//! The metric is the number of replicas itself, with a target of 1 each and the metric type `AverageValue` (KEDA's
//! default): HPA then reckons the number it was told. HPA ignores differences of up to a tenth, so that from ten
//! replicas on it does not follow steps of one.

use std::{pin::Pin, sync::Arc};

use futures_util::stream::{self, Stream};
pub use proto::external_scaler::external_scaler_server::ExternalScalerServer;
use proto::external_scaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef, external_scaler_server::ExternalScaler,
};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::wire;

const METRIC: &str = "tidegate-desired-replicas";
/// The key of a trigger's metadata that names the model.
const MODEL: &str = "model";
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// What was decided, to be read by whoever scales instead of Tidegate.
pub trait Desired: Send + Sync + 'static {
    /// What is wanted of `model`; `None` if nobody here decides for it.
    fn desired(&self, model: &str) -> Option<Wanted>;

    /// Changes at once when what is wanted of some model has changed, and perhaps more often.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// What is wanted of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: nothing is decided yet.
    pub replicas: Option<u32>,
    /// A request waits somewhere.
    pub waiting: bool,
}

/// The service over what was decided.
#[derive(Debug)]
pub struct Scaler<D> {
    inner: Arc<Inner<D>>,
}

#[derive(Debug)]
struct Inner<D> {
    desired: D,
    leading: watch::Receiver<Option<u64>>,
}

impl<D: Desired> Scaler<D> {
    /// The service, for [`serve`](crate::server::serve). `leading` holds the epoch for as long as this process
    /// leads.
    #[must_use]
    pub fn service(desired: D, leading: watch::Receiver<Option<u64>>) -> ExternalScalerServer<Self> {
        ExternalScalerServer::new(Self { inner: Arc::new(Inner { desired, leading }) })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl<D: Desired> Inner<D> {
    /// What is wanted of `model`, as numbers for KEDA.
    fn wanted(&self, model: &str) -> Result<(u32, bool), Status> {
        if self.leading.borrow().is_none() {
            return Err(Status::unavailable("this process does not lead; the one that does decides"));
        }
        let wanted = self.desired.desired(model).ok_or_else(|| unknown(model))?;
        let replicas = wanted.replicas.ok_or_else(|| {
            Status::unavailable(format!("model {:?}: nothing is decided yet", quoted(model)))
        })?;
        Ok((replicas, replicas > 0 || wanted.waiting))
    }
}

/// One stream of whether a model is active.
struct Watched<D> {
    inner: Arc<Inner<D>>,
    model: String,
    changes: watch::Receiver<u64>,
    leading: watch::Receiver<Option<u64>>,
    /// What was sent last.
    sent: Option<bool>,
    ended: bool,
}

impl<D: Desired> Watched<D> {
    fn new(inner: &Arc<Inner<D>>, model: String) -> Self {
        let (changes, leading) = (inner.desired.changes(), inner.leading.clone());
        Self { inner: Arc::clone(inner), model, changes, leading, sent: None, ended: false }
    }

    async fn next(mut self) -> Option<(Result<IsActiveResponse, Status>, Self)> {
        while !self.ended {
            self.changes.mark_unchanged();
            self.leading.mark_unchanged();
            match self.inner.wanted(&self.model) {
                Ok((_, active)) if self.sent == Some(active) => self.changed().await,
                Ok((_, active)) => {
                    self.sent = Some(active);
                    return Some((Ok(IsActiveResponse { result: active }), self));
                }
                Err(status) => {
                    self.ended = true;
                    return Some((Err(status), self));
                }
            }
        }
        None
    }

    /// Whoever decided is gone once a sender is: then the stream ends.
    async fn changed(&mut self) {
        let lives = tokio::select! {
            changed = self.changes.changed() => changed.is_ok(),
            changed = self.leading.changed() => changed.is_ok(),
        };
        self.ended = !lives;
    }
}

#[tonic::async_trait]
impl<D: Desired> ExternalScaler for Scaler<D> {
    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        let (_, result) = self.inner.wanted(model(request.get_ref())?)?;
        Ok(Response::new(IsActiveResponse { result }))
    }

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let model = model(request.get_ref())?;
        self.inner.wanted(model)?;
        let watched = Watched::new(&self.inner, model.to_owned());
        Ok(Response::new(Box::pin(stream::unfold(watched, Watched::next))))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.inner.wanted(model(request.get_ref())?)?;
        let spec = MetricSpec { metric_name: METRIC.to_owned(), target_size: 1, target_size_float: 1.0 };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let object = request.get_ref().scaled_object_ref.as_ref();
        let object = object.ok_or_else(|| Status::invalid_argument("scaledObjectRef is missing"))?;
        let (replicas, _) = self.inner.wanted(model(object)?)?;
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: replicas.into(),
            metric_value_float: replicas.into(),
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

fn model(object: &ScaledObjectRef) -> Result<&str, Status> {
    match object.scaler_metadata.get(MODEL) {
        Some(model) if wire::is_name(model) => Ok(model),
        Some(_) => Err(Status::invalid_argument(format!(
            "metadata key \"{MODEL}\" of the trigger must be a name of 1 to {} bytes",
            wire::NAME_MAX
        ))),
        None => Err(Status::invalid_argument(format!(
            "metadata key \"{MODEL}\" is missing: give the trigger the name of the model to scale"
        ))),
    }
}

fn unknown(model: &str) -> Status {
    Status::not_found(format!("model {:?} is not scaled by Tidegate", quoted(model)))
}

/// As much of a name as a message repeats.
fn quoted(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Mutex};

    use futures_util::StreamExt as _;
    use tonic::Code;

    use super::*;

    #[derive(Clone, Debug)]
    struct Decided(Arc<Mutex<Option<Wanted>>>, watch::Sender<u64>);

    impl Desired for Decided {
        fn desired(&self, model: &str) -> Option<Wanted> {
            self.0.lock().expect("no test panics with it").filter(|_| model == "digits")
        }

        fn changes(&self) -> watch::Receiver<u64> {
            self.1.subscribe()
        }
    }

    struct It {
        scaler: Scaler<Decided>,
        decided: Decided,
        leading: watch::Sender<Option<u64>>,
    }

    impl It {
        fn new() -> Self {
            let (leading, led) = watch::channel(Some(1));
            let decided = Decided(Arc::default(), watch::channel(0).0);
            let inner = Inner { desired: decided.clone(), leading: led };
            Self { scaler: Scaler { inner: Arc::new(inner) }, decided, leading }
        }

        fn decide(&self, replicas: u32) {
            self.set(Wanted { replicas: Some(replicas), waiting: false });
        }

        fn set(&self, wanted: Wanted) {
            *self.decided.0.lock().expect("no test panics with it") = Some(wanted);
            self.decided.1.send_modify(|version| *version += 1);
        }

        async fn metric(&self, model: &str) -> Result<f64, Status> {
            let scaled_object_ref = Some(object(&[("model", model)]));
            let request = GetMetricsRequest { scaled_object_ref, metric_name: METRIC.into() };
            let answer = self.scaler.get_metrics(Request::new(request)).await?.into_inner();
            let value = answer.metric_values.first().expect("one metric");
            assert_eq!(value.metric_value as f64, value.metric_value_float);
            Ok(value.metric_value_float)
        }

        async fn is_active(&self) -> Result<bool, Status> {
            let request = Request::new(object(&[("model", "digits")]));
            Ok(self.scaler.is_active(request).await?.into_inner().result)
        }
    }

    fn object(metadata: &[(&str, &str)]) -> ScaledObjectRef {
        let metadata: HashMap<_, _> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ScaledObjectRef { name: "digits".into(), namespace: "ml".into(), scaler_metadata: metadata }
    }

    #[tokio::test]
    async fn the_metric_is_the_number_that_was_decided_with_a_target_of_one() {
        let it = It::new();
        it.decide(3);
        assert_eq!(it.metric("digits").await.expect("decided"), 3.0);
        let request = Request::new(object(&[("model", "digits"), ("scalerAddress", "autoscaler:9091")]));
        let answer = it.scaler.get_metric_spec(request).await.expect("decided").into_inner();
        let spec = answer.metric_specs.first().expect("one metric");
        assert_eq!((&*spec.metric_name, spec.target_size, spec.target_size_float), (METRIC, 1, 1.0));
    }

    #[tokio::test]
    async fn a_model_is_active_while_replicas_are_wanted_or_a_request_waits() {
        let it = It::new();
        it.decide(0);
        assert!(!it.is_active().await.expect("decided"));
        it.set(Wanted { replicas: Some(0), waiting: true });
        assert!(it.is_active().await.expect("decided"));
        it.decide(2);
        assert!(it.is_active().await.expect("decided"));
    }

    #[tokio::test]
    async fn a_trigger_without_a_model_is_told_which_key_is_missing() {
        let it = It::new();
        let request = Request::new(object(&[("modell", "digits")]));
        let status = it.scaler.is_active(request).await.expect_err("no model is named");
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("\"model\" is missing"), "{}", status.message());
        let empty = Request::new(object(&[("model", "")]));
        let status = it.scaler.get_metric_spec(empty).await.expect_err("no model is named");
        assert_eq!(status.code(), Code::InvalidArgument);
    }

    #[tokio::test]
    async fn what_is_not_known_is_an_error_and_never_zero() {
        let it = It::new();
        it.decide(1);
        assert_eq!(it.metric("letters").await.expect_err("unknown").code(), Code::NotFound);
        it.set(Wanted { replicas: None, waiting: false });
        assert_eq!(it.metric("digits").await.expect_err("undecided").code(), Code::Unavailable);
        it.decide(1);
        it.leading.send_replace(None);
        assert_eq!(it.metric("digits").await.expect_err("not leading").code(), Code::Unavailable);
        assert_eq!(it.is_active().await.expect_err("not leading").code(), Code::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_says_at_once_when_activity_changes_and_ends_with_the_lead() {
        let it = It::new();
        it.decide(0);
        let request = Request::new(object(&[("model", "digits")]));
        let mut stream = it.scaler.stream_is_active(request).await.expect("decided").into_inner();
        let next = async |stream: &mut <Scaler<Decided> as ExternalScaler>::StreamIsActiveStream| {
            stream.next().await.expect("goes on").map(|answer| answer.result)
        };
        assert!(!next(&mut stream).await.expect("decided"));
        it.decide(1);
        assert!(next(&mut stream).await.expect("decided"));
        it.decide(2);
        assert!(futures_util::poll!(stream.next()).is_pending(), "it was active before");
        it.decide(0);
        assert!(!next(&mut stream).await.expect("decided"));
        it.leading.send_replace(None);
        assert_eq!(next(&mut stream).await.expect_err("not leading").code(), Code::Unavailable);
        assert!(stream.next().await.is_none());
    }
}
