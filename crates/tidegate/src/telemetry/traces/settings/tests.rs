use std::os::unix::ffi::OsStringExt as _;

use opentelemetry::Key;

use super::*;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");

fn read(variables: &[(&str, &str)]) -> Result<Option<Settings>, Wrong> {
    Settings::read(variables.iter().map(|(name, value)| (name.into(), value.into())))
}

fn with(more: &[(&str, &str)]) -> Settings {
    read(&[&[ENDPOINT], more].concat()).unwrap().unwrap()
}

#[test]
fn without_an_endpoint_or_when_switched_off_nothing_is_exported() {
    assert!(read(&[]).unwrap().is_none());
    assert!(
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_TRACES_SAMPLER", "nonsense")]).unwrap().is_none()
    );
    assert!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]).unwrap().is_none());
    assert!(read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
    assert!(read(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().is_some());
}

#[test]
fn what_is_not_said_is_as_in_the_specification() {
    let settings = with(&[]);
    assert_eq!(settings.wire.endpoint, "http://collector:4317");
    assert_eq!(settings.wire.timeout, Duration::from_secs(10));
    let limits =
        Limits { queue: 2048, batch: 512, delay: Duration::from_secs(5), timeout: Duration::from_secs(30) };
    assert_eq!(settings.limits, limits);
    assert!(settings.wire.tls.is_none() && settings.sampling.follows_caller);
    assert!(matches!(settings.sampling.root, Sampler::AlwaysOn));
}

#[test]
fn what_is_said_of_traces_comes_before_what_is_said_of_everything() {
    let settings = with(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://user:secret@traces:4000"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "250"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "20"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
    ]);
    assert_eq!(settings.wire.host, "http://traces:4000");
    assert_eq!(settings.wire.timeout, Duration::from_millis(250));
    assert_eq!((settings.limits.queue, settings.limits.batch), (100, 100));
    assert_eq!(settings.limits.delay, Duration::from_millis(20));
    assert!(!settings.sampling.follows_caller);
    assert!(matches!(settings.sampling.root, Sampler::TraceIdRatioBased(0.25)));
}

#[test]
fn the_service_has_the_name_it_is_given() {
    let name = |variables: &[(&str, &str)]| {
        with(variables).resource.get(&Key::new("service.name")).unwrap().to_string()
    };
    let attributes =
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=edge%20one, deployment.environment.name=test");
    assert_eq!(name(&[]), "tidegate");
    assert_eq!(name(&[attributes]), "edge one");
    assert_eq!(name(&[attributes, ("OTEL_SERVICE_NAME", "door")]), "door");
    let resource = with(&[attributes]).resource;
    assert_eq!(resource.get(&Key::new("deployment.environment.name")).unwrap().to_string(), "test");
}

#[test]
fn a_wrong_value_is_an_error_that_names_its_variable_and_keeps_it_secret() {
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=1"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=s%0Aecret"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999999999"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "0"),
        ("OTEL_RESOURCE_ATTRIBUTES", "just-a-word"),
        ("OTEL_RESOURCE_ATTRIBUTES", "key=%zz"),
        ("OTEL_PROPAGATORS", "b3"),
    ] {
        let wrong = read(&[ENDPOINT, (variable, value)]).unwrap_err();
        assert_eq!(wrong.variable, variable, "{value}");
        assert!(!wrong.to_string().contains("ecret"), "{wrong}");
    }
    let share =
        [ENDPOINT, ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "1.5")];
    assert_eq!(read(&share).unwrap_err().variable, "OTEL_TRACES_SAMPLER_ARG");
}

#[test]
fn a_value_that_is_not_unicode_is_wrong_only_where_traces_are_exported() {
    let read = |variable: &str, more: &[(&str, &str)]| {
        let more = more.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::read(more.chain([(variable.into(), OsString::from_vec(vec![b'a', 0xff]))]))
    };
    let all = "OTEL_EXPORTER_OTLP_ENDPOINT";
    for variable in ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED"] {
        assert!(read(variable, &[]).unwrap().is_none(), "{variable}");
        let wrong = read(variable, &[ENDPOINT]).unwrap_err();
        assert_eq!((&*wrong.variable, &*wrong.problem), (variable, "it is not Unicode"));
    }
    assert_eq!(read(all, &[]).unwrap_err().variable, all);
    assert!(read(all, &[("OTEL_SDK_DISABLED", "true")]).unwrap().is_none());
    assert!(read("OTEL_SERVICE_NAME", &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]).unwrap().is_none());
}

#[test]
fn a_certificate_that_cannot_be_read_is_an_error() {
    let tls = |more: &[(&str, &str)]| {
        read(&[&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317")], more].concat())
    };
    assert!(tls(&[]).unwrap().unwrap().wire.tls.is_some());
    let missing = tls(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/at/all.pem")]).unwrap_err();
    assert_eq!(missing.variable, "OTEL_EXPORTER_OTLP_CERTIFICATE");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for variable in ["OTEL_EXPORTER_OTLP_CERTIFICATE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY"] {
        let no_pem = tls(&[(variable, manifest)]).unwrap_err();
        assert_eq!(no_pem.variable, variable);
        assert!(no_pem.problem.contains("PEM"), "{no_pem}");
    }
}

#[test]
fn the_protocol_is_the_one_that_is_named_or_else_that_of_the_port() {
    let wire = |variable: &str, value: &str, more: &[(&str, &str)]| {
        read(&[&[(variable, value)], more].concat()).unwrap().unwrap().wire
    };
    let (all, traces) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let named = |protocol| [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)];
    let of_port = wire(all, "http://c:4317", &[]);
    assert_eq!((of_port.protocol, &*of_port.endpoint), (Protocol::Grpc, "http://c:4317"));
    let base = wire(all, "http://c:4318/otlp/", &[]);
    assert_eq!((base.protocol, &*base.endpoint), (Protocol::Http, "http://c:4318/otlp/v1/traces"));
    let whole = wire(traces, "http://c/all", &[]);
    assert_eq!((whole.protocol, &*whole.endpoint), (Protocol::Http, "http://c/all"));
    let grpc = wire(traces, "http://c:5000", &named("grpc"));
    assert_eq!((grpc.protocol, &*grpc.endpoint), (Protocol::Grpc, "http://c:5000"));
    let http = wire(all, "http://c:4317", &named("http/protobuf"));
    assert_eq!((http.protocol, &*http.endpoint), (Protocol::Http, "http://c:4317/v1/traces"));
}
