//! Every key of the configuration file, once: its kind, default, meaning and an example.
//!
//! The reader takes kinds and defaults from here, `config explain` the meaning, `config schema` and
//! `config default` all of it. A key that is not here does not exist.

mod cluster;
mod model;

use cluster::CLUSTER;
use model::MODEL;

#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) fallback: Fallback,
    /// What it holds instead where `protocol` is openai and the file does not have it.
    pub(crate) openai: Option<&'static str>,
    /// Full sentences, for a reader who knows the key's name only.
    pub(crate) meaning: &'static str,
    /// A value as it stands in a file; empty where the default or the choices show one.
    pub(crate) example: &'static str,
}

/// What a key holds when the file does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// This, as if it stood in the file.
    Value(&'static str),
    /// Nothing: the file is refused.
    Required,
    /// Nothing, which means something: another key takes its part.
    Absent,
    /// As `Absent`; a sample shows it all the same.
    Shown,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// A time with its unit, or one of these words.
    Duration {
        or: &'static [&'static str],
    },
    /// A size with its unit.
    Bytes,
    /// A whole number within these bounds, or one of these words.
    Number {
        min: u64,
        max: u64,
        or: &'static [&'static str],
    },
    /// A whole number within these bounds, or a text of this form.
    NumberOrText {
        min: u64,
        max: u64,
        form: Form,
    },
    /// A number within these whole bounds, with decimals or without.
    Decimal {
        min: u64,
        max: u64,
    },
    Flag,
    Text(Form),
    /// One of these words, each with its meaning.
    Choice(&'static [(&'static str, &'static str)]),
    List(&'static Kind),
    /// One value, or a list of them.
    OneOrMore(&'static Kind),
    /// Names of the user's own choice, with a text for each.
    Texts,
    Section(&'static [Key]),
    /// One of these words, or a section.
    ChoiceOrSection(&'static [(&'static str, &'static str)], &'static [Key]),
    Sections(&'static [Key]),
}

/// What a text must look like, in words and as a regular expression for editors.
#[derive(Debug)]
pub(crate) struct Form {
    pub(crate) words: &'static str,
    /// Empty: anything.
    pub(crate) pattern: &'static str,
}

impl Key {
    const fn new(name: &'static str, kind: Kind, meaning: &'static str) -> Self {
        Self { name, kind, fallback: Fallback::Absent, openai: None, meaning, example: "" }
    }

    const fn default(self, text: &'static str) -> Self {
        Self { fallback: Fallback::Value(text), ..self }
    }

    /// Another default where `protocol` is openai.
    const fn openai(self, text: &'static str) -> Self {
        Self { openai: Some(text), ..self }
    }

    const fn required(self) -> Self {
        Self { fallback: Fallback::Required, ..self }
    }

    const fn shown(self) -> Self {
        Self { fallback: Fallback::Shown, ..self }
    }

    const fn example(self, text: &'static str) -> Self {
        Self { example: text, ..self }
    }

    /// The meaning, with that of each word it may have.
    pub(crate) fn meaning_in_full(&self) -> String {
        match &self.kind {
            Kind::Choice(choices) | Kind::ChoiceOrSection(choices, _) => {
                with_words(self.meaning, choices.iter())
            }
            _ => self.meaning.to_owned(),
        }
    }

    /// The keys inside this one.
    pub(crate) fn children(&self) -> &'static [Key] {
        match self.kind {
            Kind::Section(keys) | Kind::Sections(keys) | Kind::ChoiceOrSection(_, keys) => keys,
            _ => &[],
        }
    }

    /// Whether the key holds a list, whose members are written `[0]`, `[1]`, … in a path.
    pub(crate) fn is_repeated(&self) -> bool {
        matches!(self.kind, Kind::Sections(_))
    }

    /// A value that may stand in a file: the default, or else the example.
    pub(crate) fn sample(&self) -> &'static str {
        match (self.fallback, self.openai) {
            (Fallback::Value(text), _) => text,
            (_, Some(text)) if self.example.is_empty() => text,
            _ => self.example,
        }
    }

    /// The defaults in words; `None` if there is none.
    pub(crate) fn default_in_words(&self) -> Option<String> {
        match (self.fallback, self.openai) {
            (Fallback::Value(text), None) => Some(text.to_owned()),
            (Fallback::Value(text), Some(openai)) => {
                Some(format!("{text}; {openai} where protocol is openai"))
            }
            (_, openai) => Some(format!("{} where protocol is openai", openai?)),
        }
    }
}

impl Kind {
    /// What may be written, in words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Duration { or } => either("a duration with its unit, like 200ms, 1.5s or 10m", or),
            Self::Bytes => "a size with its unit, like 64KiB or 1GiB".to_owned(),
            Self::Number { min, max, or } => either(&format!("a whole number from {min} to {max}"), or),
            Self::NumberOrText { min, max, form } => {
                format!("a whole number from {min} to {max}, or {}", form.words)
            }
            Self::Decimal { min, max } => format!("a number from {min} to {max}, like {min}.25"),
            Self::Flag => "true or false".to_owned(),
            Self::Text(form) => form.words.to_owned(),
            Self::Choice(choices) => one_of(choices),
            Self::List(item) => format!("a list; each: {}", item.words()),
            Self::OneOrMore(item) => format!("{}; or a list of such", item.words()),
            Self::Texts => "names of your own, each with a text".to_owned(),
            Self::Section(_) => "a section".to_owned(),
            Self::ChoiceOrSection(choices, _) => format!("{}, or a section", one_of(choices)),
            Self::Sections(_) => "a list of sections".to_owned(),
        }
    }
}

/// A meaning with those of words.
pub(crate) fn with_words<'c>(
    meaning: &str,
    choices: impl Iterator<Item = &'c (&'static str, &'static str)>,
) -> String {
    let words: Vec<String> = choices.map(|(word, meaning)| format!("{word}: {meaning}")).collect();
    format!("{meaning} {}.", words.join("; "))
}

fn either(words: &str, or: &[&str]) -> String {
    if or.is_empty() { words.to_owned() } else { format!("{}, or {words}", or.join(", ")) }
}

fn one_of(choices: &[(&str, &str)]) -> String {
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    format!("one of {}", words.join(", "))
}

/// The keys of a `Model` resource's spec: those of an entry of `models` but its name, which is the resource's.
pub(crate) fn of_resource() -> &'static [Key] {
    let (_name, keys) = MODEL.split_first().expect("a model has keys");
    keys
}

/// Every key with its path (`models[].slo.p99`), in the order of the file.
pub(crate) fn all() -> Vec<(String, &'static Key)> {
    let mut found = Vec::new();
    collect(ROOT, "", &mut found);
    found
}

fn collect(keys: &'static [Key], prefix: &str, found: &mut Vec<(String, &'static Key)>) {
    for key in keys {
        let brackets = if key.is_repeated() { "[]" } else { "" };
        let path = format!("{prefix}{}{brackets}", key.name);
        let inside = format!("{path}.");
        found.push((path, key));
        collect(key.children(), &inside, found);
    }
}

const fn duration(name: &'static str, meaning: &'static str) -> Key {
    Key::new(name, Kind::Duration { or: &[] }, meaning)
}

const fn bytes(name: &'static str, meaning: &'static str) -> Key {
    Key::new(name, Kind::Bytes, meaning)
}

const fn number(name: &'static str, min: u64, max: u64, meaning: &'static str) -> Key {
    Key::new(name, Kind::Number { min, max, or: &[] }, meaning)
}

const fn section(name: &'static str, keys: &'static [Key], meaning: &'static str) -> Key {
    Key::new(name, Kind::Section(keys), meaning)
}

const fn text(name: &'static str, words: &'static str, pattern: &'static str, meaning: &'static str) -> Key {
    Key::new(name, Kind::Text(Form { words, pattern }), meaning)
}

/// A name of one part, as namespaces and Services have.
const LABEL: Form = Form {
    words: "lower-case letters, digits and \"-\", at most 63, beginning and ending with a letter or digit",
    pattern: "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
};

const ADDRESS: Kind = Kind::Text(Form {
    words: "an IP address and port, like 0.0.0.0:8080",
    pattern: r"^(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]):\d{1,5}$",
});

/// The keys at the top of the file.
pub(crate) static ROOT: &[Key] = &[
    Key::new(
        "listen",
        Kind::OneOrMore(&ADDRESS),
        "Where clients call: HTTP/1.1, HTTP/2 and gRPC on the same port. Port 0 takes any free port.",
    )
    .default("0.0.0.0:8080"),
    section("tls", TLS, "Certificate of the listening addresses. Not supported by this version yet.")
        .example("{cert: /etc/tidegate/tls.crt, key: /etc/tidegate/tls.key}"),
    Key::new(
        "admin",
        ADDRESS,
        "Where health, metrics, the dashboard and the admin API answer. It has no authentication: an address \
         other than loopback needs allowInsecureAdmin.",
    )
    .default("127.0.0.1:9090"),
    Key::new(
        "allowInsecureAdmin",
        Kind::Flag,
        "Permits an admin address that other machines can reach, for networks where that is meant.",
    )
    .default("false"),
    section("limits", LIMITS, "Bounds of the whole process; what exceeds them is refused, never queued."),
    section("shutdown", SHUTDOWN, "How the process leaves on SIGTERM without losing a call."),
    section(
        "record",
        RECORD,
        "A record of what the autoscaler sees and decides, one line each second and model, from which tidegate plan \
         --record comes to the same decisions, or to those of other settings.",
    ),
    section(
        "cluster",
        CLUSTER,
        "How the processes of an installation in Kubernetes find each other, and where Model resources are. It \
         counts where there are kubernetes fleets or Model resources.",
    ),
    Key::new(
        "models",
        Kind::Sections(MODEL),
        "The models that are served; at least one, unless cluster.models serves Model resources too.",
    )
    .shown(),
];

static TLS: &[Key] = &[
    text("cert", "a path", "", "File with the certificate chain, PEM.")
        .required()
        .example("/etc/tidegate/tls.crt"),
    text("key", "a path", "", "File with the private key, PEM.").required().example("/etc/tidegate/tls.key"),
];

static LIMITS: &[Key] = &[
    bytes("memory", "Memory for requests that are being read, wait or run. Charged before bytes are read.")
        .default("512MiB"),
    bytes("maxBody", "Largest request body, and largest gRPC message.").default("64MiB"),
    section("maxHeaders", MAX_HEADERS, "Largest header section of a request."),
    number("maxConnections", 1, 1_000_000, "Connections from clients at a time.").default("10000"),
    section("http2", HTTP2, "Limits of one HTTP/2 connection."),
    section("timeouts", TIMEOUTS, "How long a connection may take over each step."),
];

static MAX_HEADERS: &[Key] = &[
    bytes("bytes", "Size of all header fields together.").default("16KiB"),
    number("count", 1, 10_000, "Number of header fields.").default("100"),
];

static HTTP2: &[Key] =
    &[number("maxStreams", 1, 100_000, "Calls in flight on one HTTP/2 or gRPC connection.").default("256")];

static TIMEOUTS: &[Key] = &[
    duration("firstByte", "From accepting a connection to its first byte.").default("5s"),
    duration("header", "From the first byte of a request to the end of its header.").default("10s"),
    duration("bodyIdle", "Between two pieces of a request body.").default("10s"),
    duration("idle", "Without a request on an open connection.").default("60s"),
];

static RECORD: &[Key] = &[
    text(
        "file",
        "a path",
        "",
        "File that the record is written to, each process its own; its folder has to be there. If absent: nothing is \
         recorded. Followed while the process runs. There are no requests in it, no commands and no environment; what \
         a replica said before it fell is, as in the log.",
    )
    .example("/var/lib/tidegate/decisions.jsonl"),
    bytes(
        "maxBytes",
        "Most that is kept: half in the file, half in the one before it, whose name has .1 at its end; the oldest goes \
         first. At least 4MiB. A second of one model takes 2 to 4 KiB.",
    )
    .default("256MiB"),
];

static SHUTDOWN: &[Key] = &[
    duration(
        "acceptFor",
        "How long new calls are still taken after the process has said it is leaving: load balancers need that \
         long to notice.",
    )
    .default("5s"),
    duration("drain", "How long calls in flight may take to finish after that.").default("30s"),
];
