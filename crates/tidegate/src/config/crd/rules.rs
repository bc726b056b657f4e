//! What a schema of types cannot say, in CEL.
//!
//! Not compared here, and left to the reader of the spec: `batching.maxHold` with `slo`, because `batching` is a word
//! or a section, which has no type in CEL; floors and caps of windows that overlap; sizes, which CEL cannot read.

use serde_json::{Value, json};

struct Rule {
    /// The key whose value is `self`; of a list, each member. Empty: the resource as a whole.
    path: &'static str,
    rule: &'static str,
    message: &'static str,
    /// The key inside that the error is told at; may be empty.
    field: &'static str,
}

const ONE_PERCENTILE: &str = "[has(self.p50), has(self.p90), has(self.p95), has(self.p99), \
    has(self.p99__dot__9)].exists_one(given, given)";

const RULES: &[Rule] = &[
    Rule {
        path: "",
        rule: "size(self.metadata.name) <= 128",
        message: "metadata.name is the model's name, which has at most 128 characters",
        field: "",
    },
    Rule {
        path: "spec.protocol",
        rule: "self == oldSelf",
        message: "protocol cannot be changed: model servers that speak another are another Model",
        field: "",
    },
    Rule {
        path: "spec",
        rule: "self.protocol == 'openai' || !has(self.slo) || !(has(self.slo.ttft) || has(self.slo.tpot))",
        message: "slo.ttft and slo.tpot are for protocol openai",
        field: ".slo",
    },
    Rule {
        path: "spec",
        rule: "self.protocol == 'openai' || !has(self.routing)",
        message: "routing is for protocol openai",
        field: ".routing",
    },
    Rule {
        path: "spec",
        rule: "self.protocol == 'openai' || !has(self.deadline) || \
            !(has(self.deadline.firstToken) || has(self.deadline.betweenTokens))",
        message: "deadline.firstToken and deadline.betweenTokens are for protocol openai",
        field: ".deadline",
    },
    Rule {
        path: "spec.slo",
        rule: "has(self.ttft) || has(self.tpot) || \
            [has(self.p50), has(self.p90), has(self.p95), has(self.p99), has(self.p99__dot__9)]\
            .exists_one(given, given)",
        message: "slo must name exactly one percentile, or ttft and tpot",
        field: "",
    },
    Rule {
        path: "spec.slo",
        rule: "!(has(self.ttft) || has(self.tpot)) || \
            !(has(self.p50) || has(self.p90) || has(self.p95) || has(self.p99) || has(self.p99__dot__9))",
        message: "slo is either of whole answers or of tokens, ttft and tpot",
        field: "",
    },
    Rule {
        path: "spec.slo.ttft",
        rule: ONE_PERCENTILE,
        message: "slo.ttft must name exactly one percentile",
        field: "",
    },
    Rule {
        path: "spec.slo.tpot",
        rule: ONE_PERCENTILE,
        message: "slo.tpot must name exactly one percentile",
        field: "",
    },
    Rule {
        path: "spec.deadline",
        // The unit of days is ours; CEL knows the others.
        rule: "!has(self.default) || self.default.contains('d') || self.max.contains('d') || \
            duration(self.default) <= duration(self.max)",
        message: "deadline.default must not exceed deadline.max",
        field: ".default",
    },
    Rule {
        path: "spec.scaling",
        rule: "self.min <= self.max",
        message: "scaling.min must not exceed scaling.max",
        field: ".min",
    },
    Rule {
        path: "spec.scaling",
        rule: "!has(self.schedules) || self.schedules.all(window, \
            (!has(window.min) || window.min <= self.max) && \
            (!has(window.replicas) || window.replicas <= self.max))",
        message: "min and replicas of a schedule must not exceed scaling.max",
        field: ".schedules",
    },
    Rule {
        path: "spec.scaling.schedules",
        rule: "has(self.min) || has(self.max) || has(self.replicas)",
        message: "a schedule needs min, max or replicas: it changes nothing without",
        field: "",
    },
    Rule {
        path: "spec.scaling.schedules",
        rule: "!has(self.replicas) || !(has(self.min) || has(self.max))",
        message: "replicas pins the number, which makes min and max meaningless",
        field: ".replicas",
    },
    Rule {
        path: "spec.scaling.schedules",
        rule: "!has(self.min) || !has(self.max) || self.min <= self.max",
        message: "min of a schedule must not exceed its max",
        field: ".min",
    },
    Rule {
        path: "spec.scaling.schedules",
        rule: "self.from != self.to",
        message: "from and to must differ: for the whole day write 00:00 and 24:00",
        field: ".to",
    },
    Rule {
        path: "spec.scaling.schedules",
        rule: "self.from != '24:00'",
        message: "24:00 is the end of a day: write 00:00 and the next day",
        field: ".from",
    },
];

/// The rules about the value at `path`, as `x-kubernetes-validations`.
pub(super) fn of(path: &str) -> Vec<Value> {
    RULES.iter().filter(|rule| rule.path == path).map(Rule::to_json).collect()
}

impl Rule {
    fn to_json(&self) -> Value {
        let mut rule = json!({"rule": self.rule, "message": self.message});
        if let (Some(members), false) = (rule.as_object_mut(), self.field.is_empty()) {
            members.insert("fieldPath".to_owned(), json!(self.field));
        }
        rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::crd::spec;

    #[test]
    fn every_rule_is_about_a_key_of_the_spec() {
        for rule in RULES.iter().filter(|rule| !rule.path.is_empty()) {
            let found = rule.path.split('.').skip(1).fold(spec::schema(), |schema, name| {
                let schema = if schema["type"] == "array" { &schema["items"] } else { &schema };
                schema["properties"][name].clone()
            });
            let schema = if found["type"] == "array" { &found["items"] } else { &found };
            let rules =
                schema["x-kubernetes-validations"].as_array().unwrap_or_else(|| panic!("{}", rule.path));
            assert!(rules.contains(&rule.to_json()), "{}", rule.rule);
        }
    }
}
