//! The keys of `cluster`.

use super::{ADDRESS, Key, Kind, LABEL, text};

pub(super) static CLUSTER: &[Key] = &[
    text(
        "lease",
        "a name of lower-case letters, digits, \"-\" and \".\", at most 253",
        r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
        "Name of the Lease that settles which autoscaler decides, in the namespace where they run. Installations \
         that share a namespace need a Lease each.",
    )
    .default("tidegate"),
    Key::new(
        "leaseTiming",
        Kind::Choice(TIMINGS),
        "How soon another autoscaler takes over from one that is lost. All of an installation need the same.",
    )
    .default("default"),
    Key::new(
        "signals",
        ADDRESS,
        "Where an autoscaler listens to the gateways. It has no authentication: let only gateways reach it.",
    )
    .default("0.0.0.0:9091"),
    Key::new(
        "gateways",
        Kind::Text(LABEL),
        "Name of the Service whose endpoints are the gateways, in the namespace where they run: those whose word \
         counts before anything is scaled down.",
    )
    .default("tidegate-gateway"),
    Key::new(
        "models",
        Kind::ChoiceOrSection(RESOURCES_WORDS, RESOURCES),
        "Whether Model resources (tidegate.dev) are served besides the models of this file, and from where.",
    )
    .default("off")
    .example("{namespaces: [ml, vision]}"),
];

const TIMINGS: &[(&str, &str)] = &[
    ("default", "within 17 s (the Lease lasts 15 s, its holder gives up after 10 s, it is tried every 2 s)"),
    ("fast", "within 7 s (the same with 6, 4 and 1 s), for twice the calls to the API server"),
];

const RESOURCES_WORDS: &[(&str, &str)] =
    &[("off", "none are"), ("on", "those of the namespace where Tidegate runs are")];

static RESOURCES: &[Key] = &[Key::new(
    "namespaces",
    Kind::List(&Kind::Text(LABEL)),
    "Those of these namespaces. Each has to grant Tidegate its rights there.",
)
.required()
.example("[ml, vision]")];
