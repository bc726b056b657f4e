//! What a misspelt word was meant to be.

/// The candidate nearest to `word`, if one is near enough to be offered.
pub(crate) fn guess<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Distances are quadratic, and no key is that long.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .filter_map(|candidate| Some((distance(&lower, &candidate.to_lowercase())?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn distance(word: &str, candidate: &str) -> Option<usize> {
    let distance = strsim::damerau_levenshtein(word, candidate);
    let near = word.len().max(candidate.len()).div_ceil(4).max(1);
    // `maxReplicas` for `max`: the beginning counts more than the length.
    let extended = word.starts_with(candidate) && candidate.len() >= 3;
    (distance <= near || extended).then_some(distance)
}
