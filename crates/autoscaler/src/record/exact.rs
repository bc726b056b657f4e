//! Numbers that read back exactly as they were. JSON has no exact form for a binary fraction that every reader agrees
//! on: those that ours would read as a neighbour are written as text.

use serde::{Deserialize as _, Deserializer, Serialize, Serializer, de::DeserializeOwned, ser::Error as _};
use serde_json::{Number, Value};

/// What a number written as text begins with; a text that begins so by itself has it twice.
const MARK: char = '~';

/// # Errors
/// As the serializer's.
pub(super) fn serialize<T: Serialize, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    let mut tree = serde_json::to_value(value).map_err(S::Error::custom)?;
    walk(&mut tree, &mark);
    tree.serialize(to)
}

/// # Errors
/// As the deserializer's, or what is there is no `T`.
pub(super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    let mut tree = Value::deserialize(from)?;
    walk(&mut tree, &unmark);
    serde_json::from_value(tree).map_err(serde::de::Error::custom)
}

fn walk(tree: &mut Value, change: &impl Fn(&mut Value)) {
    match tree {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, change)),
        Value::Object(members) => members.values_mut().for_each(|member| walk(member, change)),
        _ => change(tree),
    }
}

fn mark(leaf: &mut Value) {
    match leaf {
        Value::Number(number) if !survives(number) => *leaf = Value::String(format!("{MARK}{number}")),
        Value::String(text) if text.starts_with(MARK) => text.insert(0, MARK),
        _ => {}
    }
}

fn unmark(leaf: &mut Value) {
    let Value::String(text) = leaf else { return };
    let Some(rest) = text.strip_prefix(MARK) else { return };
    // The standard library reads every fraction as the nearest one there is.
    let number = rest.parse().ok().and_then(Number::from_f64).filter(|_| !rest.starts_with(MARK));
    *leaf = number.map_or_else(|| Value::String(rest.to_owned()), Value::Number);
}

/// Whether our own reader of JSON finds this number in its text.
fn survives(number: &Number) -> bool {
    let read = || serde_json::from_str::<f64>(&number.to_string()).ok();
    !number.is_f64() || number.as_f64().map(f64::to_bits) == read().map(f64::to_bits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Held<T: Serialize + DeserializeOwned>(#[serde(with = "super")] T);

    fn again<T: Serialize + DeserializeOwned>(value: T) -> T {
        let text = serde_json::to_string(&Held(value)).unwrap();
        serde_json::from_str::<Held<T>>(&text).unwrap().0
    }

    #[test]
    fn numbers_that_need_no_help_are_written_as_numbers() {
        let text = serde_json::to_string(&Held(vec![0.99, 3.0, 1e-9])).unwrap();
        assert_eq!(text, "[0.99,3.0,1e-9]");
        assert_eq!(again(vec![u64::MAX, 1 << 60]), [u64::MAX, 1 << 60]);
    }

    #[test]
    fn texts_that_look_like_marked_numbers_stay_texts() {
        let texts = ["~0.5", "~", "~~1", "1.5", "a~1"].map(str::to_owned).to_vec();
        assert_eq!(again(texts.clone()), texts);
    }

    proptest! {
        #[test]
        fn every_fraction_reads_back_as_it_was(bits in any::<u64>(), small in 0.0f64..100.0) {
            for number in [f64::from_bits(bits), small].into_iter().filter(|number| number.is_finite()) {
                assert_eq!(again(number).to_bits(), number.to_bits());
            }
        }
    }
}
