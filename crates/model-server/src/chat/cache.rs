//! The prefix cache: names of prompt blocks whose attention an engine would still hold, least recently used out first.

use std::collections::{BTreeMap, HashMap};

/// Names of blocks, at most as many as it was made for.
#[derive(Debug)]
pub(super) struct PrefixCache {
    blocks_max: usize,
    used: u64,
    used_at: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
}

impl PrefixCache {
    pub(super) fn new(blocks_max: usize) -> Self {
        Self { blocks_max, used: 0, used_at: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// How many of `blocks` are here, counted from the first until one is not.
    pub(super) fn hits(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used_at.contains_key(block)).count()
    }

    /// Holds `blocks`, as used now. The end of a prompt goes before its beginning does, which others may share.
    pub(super) fn insert(&mut self, blocks: &[u64]) {
        let kept = blocks.get(..self.blocks_max).unwrap_or(blocks);
        for &block in kept.iter().rev() {
            self.used += 1;
            if let Some(before) = self.used_at.insert(block, self.used) {
                self.by_use.remove(&before);
            }
            self.by_use.insert(self.used, block);
        }
        while self.used_at.len() > self.blocks_max {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                return;
            };
            self.used_at.remove(&oldest);
        }
    }

    pub(super) fn clear(&mut self) {
        self.used_at.clear();
        self.by_use.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_count_from_the_first_block_on() {
        let mut cache = PrefixCache::new(8);
        assert_eq!(cache.hits(&[1, 2, 3]), 0);
        cache.insert(&[1, 2, 3]);
        assert_eq!(cache.hits(&[1, 2, 3, 4]), 3);
        assert_eq!(cache.hits(&[1, 9, 3]), 1);
        assert_eq!(cache.hits(&[9, 2, 3]), 0);
        cache.clear();
        assert_eq!(cache.hits(&[1]), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_of_one_prompt_its_end() {
        let mut cache = PrefixCache::new(4);
        cache.insert(&[1, 2]);
        cache.insert(&[3, 4]);
        cache.insert(&[1, 2]);
        cache.insert(&[5]);
        assert_eq!((cache.hits(&[1, 2]), cache.hits(&[3, 4]), cache.hits(&[5])), (2, 1, 1));
    }

    #[test]
    fn a_prompt_larger_than_the_cache_leaves_its_beginning() {
        let mut cache = PrefixCache::new(2);
        cache.insert(&[1, 2, 3, 4]);
        assert_eq!(cache.hits(&[1, 2, 3, 4]), 2);
        let mut none = PrefixCache::new(0);
        none.insert(&[1]);
        assert_eq!(none.hits(&[1]), 0);
    }
}
