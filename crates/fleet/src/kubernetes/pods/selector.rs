//! Which pods belong to an object: the text that its scale subresource has for it, like `app=digits,tier in (a,b)`.

use super::Labels;

/// All of its requirements must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kubernetes) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    must: Must,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Must {
    Exist,
    NotExist,
    /// It exists, with one of these.
    Be(Vec<Box<str>>),
    /// It does not exist, or has none of these.
    NotBe(Vec<Box<str>>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a label selector that is understood here")]
pub(in crate::kubernetes) struct SelectorError(Box<str>);

impl Selector {
    pub(in crate::kubernetes) fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements: Option<Vec<_>> = split(text).into_iter().map(Requirement::parse).collect();
        match requirements {
            Some(requirements) if !requirements.is_empty() => Ok(Self(requirements)),
            _ => Err(SelectorError(text.into())),
        }
    }

    pub(in crate::kubernetes) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

/// The parts between commas, but for those in parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    let parts = text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).collect()
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        let (key, must) = if let Some((key, value)) = text.split_once("!=") {
            (key, Must::NotBe(vec![value.trim().into()]))
        } else if let Some((key, value)) = text.split_once('=') {
            // `==` means the same.
            (key, Must::Be(vec![value.trim_start_matches('=').trim().into()]))
        } else if let Some(key) = text.strip_prefix('!') {
            (key, Must::NotExist)
        } else if let Some((key, list)) = text.split_once(" notin ") {
            (key, Must::NotBe(values(list)?))
        } else if let Some((key, list)) = text.split_once(" in ") {
            (key, Must::Be(values(list)?))
        } else {
            (text, Must::Exist)
        };
        let key = key.trim();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        (!key.is_empty() && key.chars().all(plain)).then(|| Self { key: key.into(), must })
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let among = |values: &[Box<str>]| value.is_some_and(|value| values.iter().any(|one| **one == *value));
        match &self.must {
            Must::Exist => value.is_some(),
            Must::NotExist => value.is_none(),
            Must::Be(values) => among(values),
            Must::NotBe(values) => !among(values),
        }
    }
}

fn values(list: &str) -> Option<Vec<Box<str>>> {
    let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(list.split(',').map(|value| value.trim().into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        let labels = [("app", "digits"), ("app.kubernetes.io/part-of", "ml"), ("tier", "b")];
        Labels(labels.map(|(key, value)| (key.into(), value.into())).into())
    }

    #[test]
    fn a_selector_holds_when_each_requirement_does() {
        for (text, holds) in [
            ("app=digits", true),
            ("app==digits", true),
            ("app=letters", false),
            ("app=digits,tier in (a,b)", true),
            ("app=digits,tier in (a,c)", false),
            ("tier notin (a, c),app", true),
            ("zone notin (a)", true),
            ("app!=digits", false),
            ("zone!=a", true),
            ("!zone", true),
            ("!app", false),
            ("zone", false),
            ("app.kubernetes.io/part-of=ml", true),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels()), holds, "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_selects_nothing_rather_than_everything() {
        for text in ["", ",", "app=a,", "cpu > 1", "app in a,b", "=x", "(a)"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }
}
