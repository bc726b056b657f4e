//! How long a replica takes from the wish to ready.

use std::{str::FromStr, time::Duration};

use rand::Rng;

use crate::{Error, service::duration};

const USAGE: &str = "103s, 60s..180s or a list like 41s,97s,103s";

/// Cold starts, given or measured.
#[derive(Clone, Debug, PartialEq)]
pub enum ColdStart {
    Constant(Duration),
    /// Anything between these is as likely.
    Between(Duration, Duration),
    /// One of these, each as likely; at least one.
    Measured(Vec<Duration>),
}

impl ColdStart {
    #[must_use]
    pub fn mean(&self) -> Duration {
        match self {
            Self::Constant(start) => *start,
            Self::Between(least, most) => (*least + *most) / 2,
            Self::Measured(starts) => starts.iter().sum::<Duration>() / starts.len().max(1) as u32,
        }
    }

    pub(crate) fn draw(&self, rng: &mut impl Rng) -> Duration {
        let share = rng.random::<f64>();
        match self {
            Self::Constant(start) => *start,
            Self::Between(least, most) => *least + most.saturating_sub(*least).mul_f64(share),
            Self::Measured(starts) => {
                let index = (share * starts.len() as f64) as usize;
                starts.get(index).copied().unwrap_or_default()
            }
        }
    }
}

impl FromStr for ColdStart {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((least, most)) = text.split_once("..") {
            let (least, most) = (duration(least)?, duration(most)?);
            if least > most {
                return Err(Error::Part { text: text.to_owned(), usage: USAGE });
            }
            return Ok(Self::Between(least, most));
        }
        let starts = text.split(',').map(|start| duration(start.trim())).collect::<Result<Vec<_>, _>>()?;
        match starts.as_slice() {
            [start] => Ok(Self::Constant(*start)),
            _ => Ok(Self::Measured(starts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn starts_are_drawn_from_what_was_given() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut draws = |text: &str| -> Vec<f64> {
            let start: ColdStart = text.parse().unwrap();
            (0..1000).map(|_| start.draw(&mut rng).as_secs_f64()).collect()
        };
        assert!(draws("103s").iter().all(|start| *start == 103.0));
        let between = draws("60s..180s");
        assert!(between.iter().all(|start| (60.0..=180.0).contains(start)));
        assert!((between.iter().sum::<f64>() / 1000.0 - 120.0).abs() < 4.0);
        let measured = draws("40s,100s");
        let short = measured.iter().filter(|start| **start == 40.0).count();
        assert!((400..600).contains(&short) && measured.iter().all(|start| [40.0, 100.0].contains(start)));
    }

    #[test]
    fn a_start_that_cannot_be_is_refused() {
        for text in ["", "soon", "180s..60s", "1s,,2s"] {
            assert!(text.parse::<ColdStart>().is_err(), "{text:?}");
        }
        assert_eq!("60s..180s".parse::<ColdStart>().unwrap().mean().as_secs(), 120);
        assert_eq!("41s,97s,102s".parse::<ColdStart>().unwrap().mean().as_secs(), 80);
    }
}
