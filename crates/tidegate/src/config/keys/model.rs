//! The keys of one entry of `models`.

use super::{Form, Key, Kind, LABEL, bytes, duration, number, section, text};

const NAME: &str = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$";
const REPLICAS: u64 = 10_000;

pub(super) static MODEL: &[Key] = &[
    text(
        "name",
        "letters, digits, \".\", \"_\" and \"-\", at most 128, beginning with a letter or digit",
        NAME,
        "Name in client calls (/v2/models/NAME), metrics and logs.",
    )
    .required()
    .example("digits"),
    section("fleet", FLEET, "Where the model's replicas run: exactly one of process, kubernetes and static.")
        .required()
        .example(r#"{process: {command: [serve, --port, "{port}"]}}"#),
    Key::new("protocol", Kind::Choice(PROTOCOLS), "What the model servers speak; clients may speak any.")
        .default("v2-grpc"),
    section(
        "slo",
        SLO,
        "The latency that answers are to keep. Replicas follow from it. Exactly one percentile of whole answers; \
         where protocol is openai, ttft and tpot instead, each with one percentile: the default of each holds where \
         it is not given. A model of embeddings only names a percentile of whole answers there too.",
    ),
    section("deadline", DEADLINE, "When a call must have its answer, whatever the client asked for."),
    Key::new(
        "batching",
        Kind::ChoiceOrSection(BATCHING_WORDS, BATCHING),
        "Whether rows of several calls go to a model server together. Of an openai model only embeddings are merged.",
    )
    .default("auto")
    .example("{maxRows: 32, maxHold: 2ms}"),
    section("queue", QUEUE, "How much may wait for a replica; what exceeds it is refused with 429."),
    Key::new(
        "concurrency",
        Kind::Number { min: 1, max: 100_000, or: &["auto"] },
        "Calls in flight per replica where rows are not merged; of an openai model, streams. auto finds it by \
         latency.",
    )
    .default("auto"),
    section("routing", ROUTING, "Which replica a call of an openai model goes to.")
        .example("{prefixAffinity: true, loadFactor: 1.25, sessionHeader: x-session-id}"),
    Key::new(
        "idempotent",
        Kind::Flag,
        "A call may be repeated on another replica after its own was lost. Say false if predicting changes \
         something.",
    )
    .default("true"),
    section(
        "scaling",
        SCALING,
        "How many replicas there may be. Of a static fleet only coldStartTimeout counts.",
    ),
    Key::new("tenants", Kind::Texts, "Quotas by tenant. Not supported by this version yet.").default("{}"),
];

const PROTOCOLS: &[(&str, &str)] = &[
    ("v2-grpc", "Open Inference Protocol over gRPC"),
    ("v2-http", "Open Inference Protocol over HTTP"),
    ("v1", "TensorFlow Serving and KServe V1, :predict"),
    ("openai", "OpenAI: chat, completions and embeddings, streamed or whole"),
];

static FLEET: &[Key] = &[
    section("process", PROCESS, "Child processes on this machine, started and stopped as needed.").shown(),
    section("kubernetes", KUBERNETES, "Pods of a Kubernetes object that can be scaled, like a Deployment.")
        .example("{target: Deployment/digits, port: 8001}"),
    section("static", STATIC, "Model servers that run already; never scaled.")
        .example("{addresses: [10.0.0.4:8001]}"),
];

static PROCESS: &[Key] = &[
    Key::new(
        "command",
        Kind::List(&Kind::Text(Form { words: "any text", pattern: "" })),
        "The program and its arguments. {port} stands for the loopback port that the replica is to listen on, \
         another for each replica; {port2} and {port3} for two more, for servers that want them.",
    )
    .required()
    .example(r#"[tidegate, model-server, --onnx, examples/models/digits.onnx, --port, "{port}"]"#),
    Key::new("env", Kind::Texts, "Environment variables of the replicas, besides the gateway's own; {port} as in command.")
        .default("{}")
        .example("{OMP_NUM_THREADS: 1}"),
];

static KUBERNETES: &[Key] = &[
    Key::new(
        "namespace",
        Kind::Text(LABEL),
        "Where the object and its Service are. If absent: where Tidegate runs.",
    )
    .example("ml"),
    text(
        "target",
        "Kind/name or Kind.group/name, like Deployment/digits or Rollout.argoproj.io/digits",
        r"^[A-Z][A-Za-z0-9]{0,62}(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
        "The object whose replica count is set: anything with a scale subresource.",
    )
    .required()
    .example("Deployment/digits"),
    Key::new(
        "service",
        Kind::Text(LABEL),
        "The Service whose endpoints are the replicas. If absent: the one of the target's name.",
    )
    .example("digits"),
    Key::new(
        "port",
        Kind::NumberOrText {
            min: 1,
            max: 65_535,
            form: Form {
                words: "a port's name, like grpc",
                pattern: "^([0-9][-0-9]*)?[a-z]([-a-z0-9]*[a-z0-9])?$",
            },
        },
        "Port of the model server: its number in the pods, or the name that the Service gives it.",
    )
    .required()
    .example("8001"),
];

const HOST_AND_PORT: Kind = Kind::Text(Form {
    words: "host and port, like 10.0.0.4:8001 or mlserver:8001",
    pattern: r"^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):\d{1,5}$",
});

static STATIC: &[Key] =
    &[Key::new("addresses", Kind::List(&HOST_AND_PORT), "Where the model servers listen.")
        .required()
        .example("[10.0.0.4:8001]")];

static SLO: &[Key] = &[
    duration("p50", "Half of the answers take at most this.").example("20ms"),
    duration("p90", "9 of 10 answers take at most this.").example("80ms"),
    duration("p95", "19 of 20 answers take at most this.").example("80ms"),
    duration(
        "p99",
        "99 of 100 answers take at most this. The default holds while no other percentile is given.",
    )
    .default("100ms"),
    duration("p99.9", "999 of 1000 answers take at most this.").example("250ms"),
    section("ttft", TTFT, "Time to the first token of a stream, of openai models. By default p99: 2s.")
        .example("{p99: 2s}"),
    section("tpot", TPOT, "Time per further token of a stream, of openai models. By default p95: 100ms.")
        .example("{p95: 60ms}"),
];

static TTFT: &[Key] = &[
    duration("p50", "Half of the streams.").example("500ms"),
    duration("p90", "9 of 10 streams.").example("1s"),
    duration("p95", "19 of 20 streams.").example("1s"),
    duration("p99", "99 of 100 streams. The default holds while no other percentile is given.").default("2s"),
    duration("p99.9", "999 of 1000 streams.").example("4s"),
];

static TPOT: &[Key] = &[
    duration("p50", "Half of the streams.").example("40ms"),
    duration("p90", "9 of 10 streams.").example("60ms"),
    duration("p95", "19 of 20 streams. The default holds while no other percentile is given.")
        .default("100ms"),
    duration("p99", "99 of 100 streams.").example("150ms"),
    duration("p99.9", "999 of 1000 streams.").example("250ms"),
];

static DEADLINE: &[Key] = &[
    duration("default", "Deadline of calls that come without one.").default("30s").openai("300s"),
    duration("max", "Longest deadline; what a client asks beyond it is cut to this.").default("300s"),
    duration(
        "firstToken",
        "Longest that an openai model server may take over the first token of a stream; at most deadline.max.",
    )
    .openai("60s"),
    duration(
        "betweenTokens",
        "Longest silence of an openai model server within a stream; at most deadline.max. What is silent for longer \
         is broken off.",
    )
    .openai("30s"),
];

static ROUTING: &[Key] = &[
    Key::new(
        "prefixAffinity",
        Kind::Flag,
        "Calls that begin alike go to the same replica, which remembers what it has read.",
    )
    .default("true"),
    Key::new(
        "loadFactor",
        Kind::Decimal { min: 1, max: 10 },
        "How many times the average load a replica may have before such calls go to another.",
    )
    .default("1.25"),
    text(
        "sessionHeader",
        "a header's name: letters, digits and \"-\", at most 64",
        "^[A-Za-z0-9-]{1,64}$",
        "Header whose value stands for the beginning of a call, where a client sends it.",
    )
    .default("x-session-id"),
];

const BATCHING_WORDS: &[(&str, &str)] = &[
    ("auto", "merge where the model has a batch dimension and a self-check passes"),
    ("off", "never merge"),
];

static BATCHING: &[Key] = &[
    number("maxRows", 1, 65_536, "Most rows of one call to a model server.").default("32"),
    duration("maxHold", "Longest that rows wait for company while a replica is free.").default("2ms"),
];

static QUEUE: &[Key] = &[
    number("maxRequests", 1, 1_000_000, "Requests that wait.").default("1024"),
    bytes("maxBytes", "Bytes of the requests that wait; at most limits.memory.").default("64MiB"),
];

static SCALING: &[Key] = &[
    number("min", 0, REPLICAS, "Fewest replicas. 0 stops all of them when the model is idle.").default("0"),
    number("max", 1, REPLICAS, "Most replicas. Required, except for a static fleet.").shown().example("4"),
    Key::new(
        "idleAfter",
        Kind::Duration { or: &["auto"] },
        "How long a model with min 0 is kept after its last call. auto learns it from the gaps between calls, \
         10 to 60 minutes.",
    )
    .default("auto"),
    duration(
        "coldStartTimeout",
        "Longest that a call waits for a replica to become ready; after it the call is refused with 503.",
    )
    .default("120s"),
    Key::new(
        "schedules",
        Kind::Sections(SCHEDULE),
        "Weekly windows with other bounds. Open together, a pin beats caps and caps beat floors.",
    )
    .default("[]")
    .example(
        r#"[{name: night, timezone: Europe/Prague, days: [mon, tue, wed, thu, fri], from: "22:00", to: "07:00", max: 0}]"#,
    ),
    Key::new("mode", Kind::Choice(MODES), "Whether decisions are carried out.").default("enforce"),
];

const MODES: &[(&str, &str)] =
    &[("enforce", "decide and scale"), ("observe", "decide and explain, change nothing")];

const TIME: &str = r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$";

static SCHEDULE: &[Key] = &[
    text("name", "any text", "", "Name in explanations.").required().example("night"),
    text("timezone", "an IANA time zone, like Europe/Prague", "", "Whose clock the window follows, DST included.")
        .required()
        .example("Europe/Prague"),
    Key::new(
        "days",
        Kind::List(&Kind::Choice(DAYS)),
        "Days on which the window starts; it may end on the next.",
    )
    .default("[mon, tue, wed, thu, fri, sat, sun]"),
    text("from", "a time of day, like 22:00", TIME, "When the window starts.").required().example("\"22:00\""),
    text(
        "to",
        "a time of day, like 07:00",
        TIME,
        "When the window ends, itself excluded. Earlier than from: on the next day.",
    )
    .required()
    .example("\"07:00\""),
    number("min", 0, REPLICAS, "Floor: at least that many.").example("2"),
    number("max", 0, REPLICAS, "Cap: at most that many; 0 stops all once they have finished.").example("0"),
    number("replicas", 0, REPLICAS, "Pin: exactly that many.").example("3"),
    Key::new("onRequest", Kind::Choice(ON_REQUEST), "What a call does while the window allows no replica.")
        .default("wake"),
    Key::new(
        "prewarm",
        Kind::Duration { or: &["auto"] },
        "How long before the window's start its floor is asked for. auto: as long as a cold start was measured \
         to take.",
    )
    .default("auto"),
];

const DAYS: &[(&str, &str)] = &[
    ("mon", "Monday"),
    ("tue", "Tuesday"),
    ("wed", "Wednesday"),
    ("thu", "Thursday"),
    ("fri", "Friday"),
    ("sat", "Saturday"),
    ("sun", "Sunday"),
];

const ON_REQUEST: &[(&str, &str)] =
    &[("wake", "it starts a replica all the same"), ("reject", "it is refused with 503 scheduled_off")];
