//! Which replicas lately had a prompt that begins like this one. Pure.
//!
//! A block's hash covers everything before it, so the deepest known one says how much of a prompt a replica may have
//! in its cache. What was not asked for lately is forgotten: the table holds two generations of bounded size, and a
//! full young one becomes the old.

use std::collections::HashMap;

use super::Affinity;

/// Entries of one generation. With 16 bytes an entry and two generations, about 2 MiB a model.
const GENERATION: usize = 32 << 10;
/// Replicas remembered for one block: the start of a prompt that everybody shares is in the cache of several.
const HOLDERS: usize = 4;

/// Numbers of replicas in the order in which they came to know the block; 0 for none. Whoever can goes to the first:
/// were they used alike, the same starts of prompts would fill the caches of all.
type Holders = [u32; HOLDERS];

#[derive(Debug, Default)]
pub(crate) struct Table {
    young: HashMap<u64, Holders>,
    old: HashMap<u64, Holders>,
}

impl Table {
    /// Looks for a replica that `fits` among those that know most of the prompt, and returns the first for which it
    /// says yes; the conversation's own before all others.
    pub(crate) fn find<T>(
        &self,
        affinity: &Affinity,
        mut fits: impl FnMut(&[u32]) -> Option<T>,
    ) -> Option<T> {
        let keys = affinity.session.iter().chain(affinity.prefix.iter().rev());
        keys.filter_map(|key| self.holders(*key)).find_map(|holders| {
            let known = holders.iter().position(|number| *number == 0).unwrap_or(HOLDERS);
            holders.get(..known).and_then(&mut fits)
        })
    }

    /// Remembers that the prompt went to the replica of this number, which is not 0.
    pub(crate) fn went_to(&mut self, affinity: &Affinity, number: u32) {
        if let Some(session) = affinity.session {
            self.put(session, [number, 0, 0, 0]);
        }
        for key in &affinity.prefix {
            let holders = self.holders(*key).map_or([number, 0, 0, 0], |known| joined(known, number));
            self.put(*key, holders);
        }
    }

    fn holders(&self, key: u64) -> Option<Holders> {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }

    fn put(&mut self, key: u64, holders: Holders) {
        if self.young.len() >= GENERATION && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, holders);
    }
}

/// Those that were known before, and `number`: in the last place if none is free.
fn joined(mut known: Holders, number: u32) -> Holders {
    let free = known.iter().position(|other| *other == number || *other == 0).unwrap_or(HOLDERS - 1);
    if let Some(place) = known.get_mut(free) {
        *place = number;
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(blocks: &[u64]) -> Affinity {
        Affinity { session: None, prefix: blocks.to_vec() }
    }

    fn first(table: &Table, affinity: &Affinity) -> Option<u32> {
        table.find(affinity, |holders| holders.first().copied())
    }

    #[test]
    fn the_replica_that_knows_most_of_the_prompt_is_found_first() {
        let mut table = Table::default();
        table.went_to(&prompt(&[1, 2, 3]), 7);
        table.went_to(&prompt(&[1, 9]), 8);
        assert_eq!(first(&table, &prompt(&[1, 2, 3, 4])), Some(7));
        assert_eq!(first(&table, &prompt(&[1, 5])), Some(7), "the first one that began so");
        assert_eq!(first(&table, &prompt(&[6])), None);
        let not_the_deepest = table.find(&prompt(&[1, 2, 3]), |holders| holders.contains(&8).then_some(8));
        assert_eq!(not_the_deepest, Some(8));
    }

    #[test]
    fn a_conversation_goes_where_it_went_before_whatever_its_prompt() {
        let mut table = Table::default();
        let of = |session, prefix: &[u64]| Affinity { session: Some(session), prefix: prefix.to_vec() };
        table.went_to(&of(100, &[1, 2]), 7);
        table.went_to(&of(101, &[1, 2, 3]), 8);
        assert_eq!(first(&table, &of(100, &[1, 2, 3])), Some(7));
    }

    #[test]
    fn several_replicas_are_known_for_what_is_shared_the_first_one_first() {
        let mut table = Table::default();
        for number in [1, 2, 3, 2, 4, 5] {
            table.went_to(&prompt(&[1]), number);
        }
        assert_eq!(table.find(&prompt(&[1]), |holders| Some(holders.to_vec())), Some(vec![1, 2, 3, 5]));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_what_nobody_asks_for() {
        let mut table = Table::default();
        table.went_to(&prompt(&[1]), 7);
        for block in 0..4 * GENERATION as u64 {
            table.went_to(&prompt(&[2, 1_000 + block]), 8);
            assert!(table.young.len() <= GENERATION && table.old.len() <= GENERATION);
        }
        assert_eq!(first(&table, &prompt(&[1])), None);
        assert_eq!(first(&table, &prompt(&[2])), Some(8));
    }
}
