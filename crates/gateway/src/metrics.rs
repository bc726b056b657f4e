//! The gateway's own metrics: handles made once per model, surface and outcome, and one place that records.

use std::{
    array,
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics::{Counter, Histogram};
use pipeline::request::Timings;

use crate::status::Situation;

/// Which protocol a client spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    V2Http,
    V2Grpc,
    V1,
    OpenAi,
}

impl Surface {
    const ALL: [Self; 4] = [Self::V2Http, Self::V2Grpc, Self::V1, Self::OpenAi];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V2Http => "v2-http",
            Self::V2Grpc => "v2-grpc",
            Self::V1 => "v1",
            Self::OpenAi => "openai",
        }
    }

    /// The `code` label: what the client saw as the status of its call.
    pub(crate) fn code(self, failed: Option<Situation>) -> String {
        match (self, failed) {
            (Self::V2Grpc, None) => "OK".to_owned(),
            (Self::V2Grpc, Some(situation)) => screaming_snake(&format!("{:?}", situation.row().grpc)),
            (_, None) => "200".to_owned(),
            (_, Some(situation)) => situation.row().http.to_string(),
        }
    }
}

/// `InvalidArgument` → `INVALID_ARGUMENT`, the name gRPC gives its codes.
fn screaming_snake(camel: &str) -> String {
    let mut name = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// One call as the metrics see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observation<'a> {
    pub(crate) surface: Surface,
    pub(crate) failed: Option<Situation>,
    pub(crate) total: Duration,
    /// Where a model server answered.
    pub(crate) timings: Option<&'a Timings>,
}

/// The handles of one value of the `model` label.
#[derive(Debug)]
pub(crate) struct ModelMetrics {
    model: Arc<str>,
    surfaces: [SurfaceMetrics; Surface::ALL.len()],
}

#[derive(Debug)]
struct SurfaceMetrics {
    /// By situation, and last the good outcome.
    requests: [OnceLock<Counter>; Situation::ALL.len() + 1],
    duration: OnceLock<Histogram>,
    overhead: OnceLock<Histogram>,
}

impl SurfaceMetrics {
    fn new() -> Self {
        let requests = array::from_fn(|_| OnceLock::new());
        Self { requests, duration: OnceLock::new(), overhead: OnceLock::new() }
    }
}

impl ModelMetrics {
    pub(crate) fn new(model: Arc<str>) -> Self {
        Self { model, surfaces: array::from_fn(|_| SurfaceMetrics::new()) }
    }

    /// Records one call, whatever became of it.
    pub(crate) fn record(&self, seen: &Observation<'_>) {
        let Some(handles) = self.surfaces.get(seen.surface as usize) else { return };
        let outcome = seen.failed.map_or(Situation::ALL.len(), |situation| situation as usize);
        if let Some(requests) = handles.requests.get(outcome) {
            requests.get_or_init(|| self.requests(seen)).increment(1);
        }
        let duration = || self.histogram("tidegate_request_duration_seconds", seen.surface);
        handles.duration.get_or_init(duration).record(seen.total.as_secs_f64());
        if let Some(timings) = seen.timings {
            let spent = seen.total.saturating_sub(timings.queue + timings.upstream);
            let overhead = || self.histogram("tidegate_overhead_seconds", seen.surface);
            handles.overhead.get_or_init(overhead).record(spent.as_secs_f64());
        }
    }

    fn requests(&self, seen: &Observation<'_>) -> Counter {
        metrics::counter!(
            "tidegate_requests_total",
            "model" => String::from(&*self.model),
            "protocol" => seen.surface.as_str(),
            "code" => seen.surface.code(seen.failed),
            "reason" => seen.failed.map_or("ok", |situation| situation.row().reason),
        )
    }

    fn histogram(&self, name: &'static str, surface: Surface) -> Histogram {
        metrics::histogram!(name, "model" => String::from(&*self.model), "protocol" => surface.as_str())
    }
}

/// What belongs to no model.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Calls for models that are not served.
    pub(crate) unknown: ModelMetrics,
    /// Calls that are about the server.
    pub(crate) server: ModelMetrics,
    panics: OnceLock<Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            unknown: ModelMetrics::new("_unknown".into()),
            server: ModelMetrics::new("_server".into()),
            panics: OnceLock::new(),
        }
    }

    pub(crate) fn panicked(&self) {
        self.panics.get_or_init(|| metrics::counter!("tidegate_panics_total")).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surfaces_are_listed_at_their_own_place() {
        for (place, surface) in Surface::ALL.into_iter().enumerate() {
            assert_eq!(surface as usize, place);
        }
    }

    #[test]
    fn the_code_label_is_what_the_client_saw() {
        assert_eq!(Surface::V2Grpc.code(Some(Situation::BadTensor)), "INVALID_ARGUMENT");
        assert_eq!(Surface::V2Grpc.code(None), "OK");
        assert_eq!(Surface::V1.code(Some(Situation::QueueFull)), "429");
    }

    #[test]
    fn one_call_is_recorded_once_under_its_labels() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let rendered = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let model = ModelMetrics::new("digits".into());
            let timings = Timings { upstream: Duration::from_millis(900), ..Timings::default() };
            let mut seen = Observation {
                surface: Surface::V1,
                failed: None,
                total: Duration::from_secs(1),
                timings: Some(&timings),
            };
            model.record(&seen);
            model.record(&seen);
            seen.failed = Some(Situation::QueueFull);
            seen.timings = None;
            model.record(&seen);
            Metrics::new().panicked();
        });
        let text = rendered.render();
        for line in [
            r#"tidegate_requests_total{model="digits",protocol="v1",code="200",reason="ok"} 2"#,
            r#"tidegate_requests_total{model="digits",protocol="v1",code="429",reason="queue_full"} 1"#,
            r#"tidegate_request_duration_seconds_count{model="digits",protocol="v1"} 3"#,
            r#"tidegate_overhead_seconds_count{model="digits",protocol="v1"} 2"#,
            "tidegate_panics_total 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
