//! Label and field selectors of lists and watches.

use serde_json::Value;

use crate::{kinds::Kind, object::Object, refusal::Refusal};

/// A label selector; without requirements it selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    requirements: Vec<(String, Rule)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
}

impl Labels {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let requirements = split_outside_parentheses(text)
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(requirement)
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    /// A `LabelSelector` object: `matchLabels` and `matchExpressions`.
    pub(crate) fn of_object(selector: &Value) -> Self {
        let mut requirements = Self::of_map(&selector["matchLabels"]).requirements;
        for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(|value| value.as_str().map(str::to_owned)).collect();
            let rule = match expression["operator"].as_str() {
                Some("In") => Rule::In(values),
                Some("NotIn") => Rule::NotIn(values),
                Some("Exists") => Rule::Exists,
                _ => Rule::Missing,
            };
            requirements.push((key, rule));
        }
        Self { requirements }
    }

    /// A map of labels, as services carry it.
    pub(crate) fn of_map(labels: &Value) -> Self {
        let members = labels.as_object().into_iter().flatten();
        let requirement = |(key, value): (&String, &Value)| {
            (key.clone(), Rule::In(vec![value.as_str().unwrap_or_default().into()]))
        };
        Self { requirements: members.map(requirement).collect() }
    }

    /// One label and the value it must have, if the selector says so.
    pub(crate) fn anchor(&self) -> Option<(String, String)> {
        self.requirements.iter().find_map(|(key, rule)| match rule {
            Rule::In(values) if values.len() == 1 => Some((key.clone(), values.first()?.clone())),
            _ => None,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub(crate) fn matches(&self, labels: &Value) -> bool {
        self.requirements.iter().all(|(key, rule)| {
            let value = labels.get(key).and_then(Value::as_str);
            match rule {
                Rule::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
                Rule::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
                Rule::Exists => value.is_some(),
                Rule::Missing => value.is_none(),
            }
        })
    }

    /// As text, the way the scale subresource shows it.
    pub(crate) fn to_text(&self) -> String {
        let part = |(key, rule): &(String, Rule)| match rule {
            Rule::In(values) if values.len() == 1 => format!("{key}={}", values.join("")),
            Rule::In(values) => format!("{key} in ({})", values.join(",")),
            Rule::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            Rule::Exists => key.clone(),
            Rule::Missing => format!("!{key}"),
        };
        self.requirements.iter().map(part).collect::<Vec<_>>().join(",")
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text.get(start..index).unwrap_or_default());
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn requirement(part: &str) -> Result<(String, Rule), Refusal> {
    let parse_error = |why: String| Refusal::bad_request(format!("unable to parse requirement: {why}"));
    if let Some(key) = part.strip_prefix('!') {
        return Ok((key.trim().to_owned(), Rule::Missing));
    }
    for (sign, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some((key, value)) = part.split_once(sign) {
            let values = vec![value.trim().to_owned()];
            let rule = if equal { Rule::In(values) } else { Rule::NotIn(values) };
            return Ok((key.trim().to_owned(), rule));
        }
    }
    let Some((key, rest)) = part.split_once(char::is_whitespace) else {
        return Ok((part.to_owned(), Rule::Exists));
    };
    let rest = rest.trim();
    let (word, set) = rest.split_once([' ', '(']).unwrap_or((rest, ""));
    let set = set.trim().trim_start_matches('(');
    let Some(set) = set.strip_suffix(')') else {
        return Err(parse_error(format!("found '{set}' expected: '('")));
    };
    let values = set.split(',').map(|value| value.trim().to_owned()).collect();
    match word {
        "in" => Ok((key.to_owned(), Rule::In(values))),
        "notin" => Ok((key.to_owned(), Rule::NotIn(values))),
        other => Err(parse_error(format!("found '{other}' expected: in, notin, =, ==, !=, gt, lt"))),
    }
}

/// A field selector: `metadata.name=a,status.phase!=Running`.
#[derive(Clone, Debug, Default)]
struct FieldRules {
    rules: Vec<FieldRule>,
}

#[derive(Clone, Debug)]
struct FieldRule {
    path: Vec<String>,
    value: String,
    negated: bool,
}

impl FieldRules {
    fn parse(kind: &Kind, text: &str) -> Result<Self, Refusal> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let rules = parts.map(|part| Self::rule(kind, part)).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    fn rule(kind: &Kind, part: &str) -> Result<FieldRule, Refusal> {
        let (field, value, negated) = if let Some((field, value)) = part.split_once("!=") {
            (field, value, true)
        } else if let Some((field, value)) = part.split_once('=') {
            (field, value.trim_start_matches('='), false)
        } else {
            let message = format!("invalid selector: '{part}'; can't understand '{part}'");
            return Err(Refusal::bad_request(message));
        };
        let common = ["metadata.name", "metadata.namespace"];
        let known = common.contains(&field) || kind.selectable.iter().any(|known| known == field);
        if !known {
            // Kinds with fields of their own are worded differently.
            let message = if kind.selectable.is_empty() || kind.custom {
                let names = common.into_iter().chain(kind.selectable.iter().map(String::as_str));
                let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
                format!("\"{field}\" is not a known field selector: only {}", names.join(", "))
            } else {
                format!("field label not supported: {field}")
            };
            return Err(Refusal::bad_request(message));
        }
        let stored = field.replacen("regarding.", "involvedObject.", 1);
        let path = stored.split('.').map(str::to_owned).collect();
        Ok(FieldRule { path, value: value.to_owned(), negated })
    }

    fn matches(&self, object: &Value) -> bool {
        self.rules.iter().all(|rule| {
            let value = crate::object::at(object, &rule.path);
            let text = match value {
                Some(Value::String(text)) => text.clone(),
                None | Some(Value::Null) => String::new(),
                Some(other) => other.to_string(),
            };
            (text == rule.value) != rule.negated
        })
    }

    /// The one name asked for, if that is what the selector says.
    fn name(&self) -> Option<&str> {
        let named = |rule: &&FieldRule| !rule.negated && rule.path == ["metadata", "name"];
        self.rules.iter().find(named).map(|rule| rule.value.as_str())
    }
}

/// What a list or a watch asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    labels: Labels,
    fields: FieldRules,
}

impl Filter {
    pub(crate) fn new(
        kind: &Kind,
        namespace: Option<String>,
        (labels, fields): (&str, &str),
    ) -> Result<Self, Refusal> {
        Ok(Self { namespace, labels: Labels::parse(labels)?, fields: FieldRules::parse(kind, fields)? })
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == object.namespace)
            && self.fields.name().is_none_or(|name| name == object.name)
            && self.labels.matches(&object.value["metadata"]["labels"])
            && self.fields.matches(&object.value)
    }

    /// Whether labels or fields narrow it down.
    pub(crate) fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.rules.is_empty()
    }
}
