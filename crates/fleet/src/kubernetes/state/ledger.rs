//! What the ConfigMap holds, and how entries are put into it: a function of what was there and what is given.

use std::{cmp::Reverse, collections::BTreeMap};

use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{super::lease::EPOCH_MAX, EPOCH, Entry, Memory, Saved, key};

/// A ConfigMap may hold 1 MiB, and what others write on it needs some of that. What is learned of a model comes to five
/// kilobytes at most: there is room for 130 of the fullest.
const BYTES_MAX: usize = 700 << 10;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    data: BTreeMap<String, String>,
    epoch: u64,
}

/// What is kept is of this, later, epoch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Superseded(pub u64);

/// A value of the ConfigMap.
#[derive(Serialize, Deserialize)]
struct Kept<'a> {
    weight: u64,
    #[serde(borrow)]
    state: &'a RawValue,
}

impl Ledger {
    pub(super) fn of(map: &ConfigMap) -> Self {
        let epoch = map.metadata.annotations.as_ref().and_then(|all| all.get(EPOCH)?.parse().ok());
        // No leader had such an epoch; as a number to be outranked it would end all saving for ever.
        let epoch = epoch.filter(|epoch| *epoch <= EPOCH_MAX).unwrap_or(0);
        Self { data: map.data.clone().unwrap_or_default(), epoch }
    }

    pub(super) fn into_map(self, mut map: ConfigMap) -> ConfigMap {
        map.data = Some(self.data);
        map.metadata.annotations.get_or_insert_default().insert(EPOCH.to_owned(), self.epoch.to_string());
        map
    }

    pub(super) fn memory(&self) -> Memory {
        let models = self.data.iter().filter_map(|(key, value)| {
            let kept = serde_json::from_str::<Kept<'_>>(value).ok()?;
            Some((key::model(key)?, kept.state.get().to_owned()))
        });
        Memory { models: models.collect(), epoch: self.epoch }
    }

    /// The ledger with these entries in it.
    pub(super) fn with(
        &self,
        entries: &BTreeMap<String, Entry>,
        epoch: u64,
    ) -> Result<(Self, Saved), Superseded> {
        if self.epoch > epoch {
            return Err(Superseded(self.epoch));
        }
        let (mut next, mut saved) = (Self { data: self.data.clone(), epoch }, Saved::default());
        for (model, entry) in entries {
            let value = entry.to_value().filter(|value| value.len() < BYTES_MAX);
            let Some((key, value)) = key::of(model).zip(value) else {
                saved.left_out.push(model.clone());
                continue;
            };
            if next.data.get(&key).is_some_and(|kept| weight(kept) > entry.weight) {
                saved.outweighed.push(model.clone());
            } else {
                next.data.insert(key, value);
            }
        }
        for key in next.make_room(entries) {
            saved.left_out.extend(key::model(&key).filter(|model| entries.contains_key(model)));
        }
        Ok((next, saved))
    }

    /// Drops what is worth least until the rest fits.
    fn make_room(&mut self, entries: &BTreeMap<String, Entry>) -> Vec<String> {
        let size = |key: &str, value: &str| key.len() + value.len();
        let mut bytes: usize = self.data.iter().map(|(key, value)| size(key, value)).sum();
        if bytes <= BYTES_MAX {
            return Vec::new();
        }
        let worth = self.data.iter().map(|(key, value)| {
            let wanted = key::model(key).is_some_and(|model| entries.contains_key(&model));
            (wanted, weight(value), Reverse(size(key, value)), key.clone())
        });
        let mut worth: Vec<_> = worth.collect();
        worth.sort_unstable();
        let mut dropped = Vec::new();
        for (_, _, Reverse(size), key) in worth {
            if bytes <= BYTES_MAX {
                break;
            }
            bytes -= size;
            self.data.remove(&key);
            dropped.push(key);
        }
        dropped
    }
}

impl Entry {
    fn to_value(&self) -> Option<String> {
        let state: &RawValue = serde_json::from_str(&self.json).ok()?;
        serde_json::to_string(&Kept { weight: self.weight, state }).ok()
    }
}

/// Nothing for what is not ours or cannot be read.
fn weight(value: &str) -> u64 {
    serde_json::from_str::<Kept<'_>>(value).map_or(0, |kept| kept.weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: &str, weight: u64) -> Entry {
        Entry { json: json.to_owned(), weight }
    }

    fn entries<const N: usize>(all: [(&str, Entry); N]) -> BTreeMap<String, Entry> {
        all.into_iter().map(|(model, entry)| (model.to_owned(), entry)).collect()
    }

    fn kept(ledger: &Ledger, model: &str) -> Option<String> {
        ledger.memory().models.get(model).cloned()
    }

    #[test]
    fn what_is_saved_is_read_again_as_it_was() {
        let json = r#"{"v":1,"x":[0.1,"é\n"]}"#;
        let (ledger, saved) = Ledger::default().with(&entries([("ml/a_b", entry(json, 3))]), 7).unwrap();
        assert_eq!(saved, Saved::default());
        let again = Ledger::of(&ledger.clone().into_map(ConfigMap::default()));
        assert_eq!(again, ledger);
        assert_eq!(again.memory().epoch, 7);
        assert_eq!(kept(&again, "ml/a_b").as_deref(), Some(json));
    }

    #[test]
    fn an_entry_gives_way_to_one_of_equal_or_greater_weight_only() {
        let (ledger, _) = Ledger::default().with(&entries([("a", entry("1", 5))]), 1).unwrap();
        let (ledger, saved) = ledger.with(&entries([("a", entry("2", 4))]), 1).unwrap();
        assert_eq!((kept(&ledger, "a").as_deref(), saved.outweighed), (Some("1"), vec!["a".to_owned()]));
        let (ledger, saved) = ledger.with(&entries([("a", entry("3", 5))]), 1).unwrap();
        assert_eq!((kept(&ledger, "a").as_deref(), saved.outweighed), (Some("3"), vec![]));
    }

    #[test]
    fn a_record_of_a_later_epoch_is_left_alone() {
        let (ledger, _) = Ledger::default().with(&entries([("a", entry("1", 5))]), 9).unwrap();
        assert_eq!(ledger.with(&entries([("a", entry("2", 99))]), 8).unwrap_err(), Superseded(9));
        assert!(ledger.with(&entries([("a", entry("2", 99))]), 9).is_ok());
    }

    #[test]
    fn an_epoch_that_nobody_can_have_had_counts_for_nothing() {
        for garbage in ["", "-1", "epoch", "18446744073709551615"] {
            let mut map = ConfigMap::default();
            map.metadata.annotations = Some([(EPOCH.to_owned(), garbage.to_owned())].into());
            assert_eq!(Ledger::of(&map).epoch, 0, "{garbage}");
        }
    }

    #[test]
    fn over_the_size_what_nobody_asks_for_goes_first_and_then_what_weighs_least() {
        let big = format!("\"{}\"", "x".repeat(BYTES_MAX * 3 / 10));
        let first =
            entries([("gone", entry(&big, 100)), ("light", entry(&big, 1)), ("heavy", entry(&big, 9))]);
        let (ledger, saved) = Ledger::default().with(&first, 1).unwrap();
        assert_eq!(saved, Saved::default());
        let next = entries([("light", entry(&big, 1)), ("heavy", entry(&big, 9)), ("new", entry(&big, 2))]);
        let (ledger, saved) = ledger.with(&next, 1).unwrap();
        assert_eq!((kept(&ledger, "gone"), saved), (None, Saved::default()));
        let next = entries([
            ("heavy", entry(&big, 9)),
            ("new", entry(&big, 2)),
            ("light", entry(&big, 1)),
            ("newer", entry(&big, 3)),
        ]);
        let (ledger, saved) = ledger.with(&next, 1).unwrap();
        assert_eq!((kept(&ledger, "light"), saved.left_out), (None, vec!["light".to_owned()]));
        let bytes: usize = ledger.data.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(bytes <= BYTES_MAX);
    }

    #[test]
    fn a_hundred_and_thirty_models_of_five_kilobytes_have_room() {
        let full = format!("\"{}\"", "x".repeat(5 << 10));
        let all = (0..130).map(|n| (format!("namespace/model-{n}"), entry(&full, 200))).collect();
        let (ledger, saved) = Ledger::default().with(&all, 1).unwrap();
        assert_eq!((ledger.memory().models.len(), saved), (130, Saved::default()));
    }

    #[test]
    fn what_can_never_be_kept_is_said_and_does_no_harm() {
        let huge = format!("\"{}\"", "x".repeat(BYTES_MAX));
        let given =
            entries([("huge", entry(&huge, u64::MAX)), ("bad", entry("{", 1)), ("good", entry("1", 1))]);
        let (ledger, saved) = Ledger::default().with(&given, 1).unwrap();
        assert_eq!(saved.left_out, ["bad", "huge"]);
        assert_eq!(kept(&ledger, "good").as_deref(), Some("1"));
    }

    #[test]
    fn entries_that_cannot_be_read_are_replaced_and_do_not_hide_others() {
        let data = BTreeMap::from([("a".to_owned(), "garbage".to_owned()), ("b_".to_owned(), String::new())]);
        let ledger = Ledger { data, epoch: 0 };
        assert_eq!(ledger.memory(), Memory::default());
        let (ledger, _) = ledger.with(&entries([("a", entry("1", 0))]), 1).unwrap();
        assert_eq!(kept(&ledger, "a").as_deref(), Some("1"));
    }
}
