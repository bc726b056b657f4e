//! Which tunings of a policy are worth having, and what one of them would cost at somebody else's SLO.

/// A tuning by what it is worth and what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Part of the requests within the SLO.
    pub met: f64,
    pub cost: f64,
}

/// The points that no other beats in both, from the cheapest to the best.
#[must_use]
pub fn frontier(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.met.total_cmp(&a.met)));
    let mut best: Vec<Point> = Vec::new();
    for point in sorted {
        if best.last().is_none_or(|last| point.met > last.met) {
            best.push(point);
        }
    }
    best
}

/// What a policy would cost at `met`, between the two points of its frontier around it; its cheapest where that is
/// better already. `None` where no tuning comes that far.
#[must_use]
pub fn cost_at(points: &[Point], met: f64) -> Option<f64> {
    let frontier = frontier(points);
    let above = frontier.iter().position(|point| point.met >= met)?;
    let high = frontier.get(above)?;
    let Some(low) = above.checked_sub(1).and_then(|below| frontier.get(below)) else {
        return Some(high.cost);
    };
    let share = (met - low.met) / (high.met - low.met);
    Some(low.cost + (high.cost - low.cost) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(rows: &[(f64, f64)]) -> Vec<Point> {
        rows.iter().map(|(met, cost)| Point { met: *met, cost: *cost }).collect()
    }

    #[test]
    fn what_another_beats_in_both_is_not_on_the_frontier() {
        let all = points(&[(0.99, 20.0), (0.9, 10.0), (0.95, 25.0), (0.9, 12.0), (0.999, 30.0)]);
        assert_eq!(frontier(&all), points(&[(0.9, 10.0), (0.99, 20.0), (0.999, 30.0)]));
    }

    #[test]
    fn cost_is_interpolated_between_neighbours_and_never_beyond() {
        let all = points(&[(0.9, 10.0), (1.0, 20.0)]);
        assert!((cost_at(&all, 0.95).unwrap() - 15.0).abs() < 1e-9);
        assert_eq!(cost_at(&all, 0.5), Some(10.0));
        assert_eq!(cost_at(&all[..1], 0.95), None);
    }
}
