//! Failures on demand: by chance for every call, or by header for one.

use std::{fmt, str::FromStr};

use super::digest::Draws;

/// How much later the first token comes with [`Fault::SlowFirst`], before the factor of `--slow`.
pub(super) const SLOW_FIRST: std::time::Duration = std::time::Duration::from_secs(5);

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 500 in place of an answer; an error event once a stream has begun.
    Error,
    /// The connection breaks off, or the HTTP/2 stream is reset.
    Reset,
    /// Nothing more comes, and the slot stays taken until the client leaves.
    Stall,
    /// What comes is not JSON, or not an event.
    Nonsense,
    /// A well-framed body that ends too early.
    Truncate,
    /// The first token comes five seconds later.
    SlowFirst,
    /// A whole stream without its `[DONE]`.
    NoDone,
    /// Refused as if the engine were full.
    Busy,
}

/// A fault and when it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub fault: Fault,
    /// Tokens generated before.
    pub after: usize,
}

/// How often calls fail by chance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failures {
    odds: Vec<(Fault, f64)>,
}

/// The text is not a fault, or not a list of odds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    #[error(
        "{0:?} is not a fault: write error, reset, stall, nonsense, truncate, slow-first, no-done or busy, \
         and @N to let it show after N tokens"
    )]
    Unknown(String),
    #[error("{0:?} has no odds: write FAULT=CHANCE with a chance from 0 to 1")]
    Odds(String),
    #[error("the chances add up to more than 1")]
    Sum,
}

const NAMES: [(&str, Fault); 8] = [
    ("error", Fault::Error),
    ("reset", Fault::Reset),
    ("stall", Fault::Stall),
    ("nonsense", Fault::Nonsense),
    ("truncate", Fault::Truncate),
    ("slow-first", Fault::SlowFirst),
    ("no-done", Fault::NoDone),
    ("busy", Fault::Busy),
];

/// Client text in a message is cut to this many characters.
const QUOTE_CHARS_MAX: usize = 40;

fn unknown(text: &str) -> FaultError {
    FaultError::Unknown(text.chars().take(QUOTE_CHARS_MAX).collect())
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        NAMES.iter().find(|(name, _)| *name == text).map(|(_, fault)| *fault).ok_or_else(|| unknown(text))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, fault)| fault == self).map_or("", |(name, _)| *name);
        f.write_str(name)
    }
}

impl FromStr for Planned {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (fault, after) = text.trim().split_once('@').unwrap_or((text.trim(), "0"));
        Ok(Self { fault: fault.parse()?, after: after.parse().map_err(|_| unknown(text))? })
    }
}

impl FromStr for Failures {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let mut odds = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let wrong = || FaultError::Odds(part.to_owned());
            let (fault, chance) = part.split_once('=').ok_or_else(wrong)?;
            let chance: f64 = chance.parse().map_err(|_| wrong())?;
            if !(0.0..=1.0).contains(&chance) {
                return Err(wrong());
            }
            odds.push((fault.parse()?, chance));
        }
        // What decimal fractions lose in binary is no mistake of the one who wrote them.
        if odds.iter().map(|(_, chance)| chance).sum::<f64>() > 1.0 + 1e-9 {
            return Err(FaultError::Sum);
        }
        Ok(Self { odds })
    }
}

impl Failures {
    /// Whether a call fails, and after how many of its `tokens`. A refusal or an error comes before the first.
    pub(super) fn draw(&self, draws: &mut Draws, tokens: usize) -> Option<Planned> {
        if self.odds.is_empty() {
            return None;
        }
        let mut at = draws.unit();
        let (fault, _) = self.odds.iter().find(|(_, chance)| {
            at -= chance;
            at < 0.0
        })?;
        let after = match fault {
            Fault::Reset | Fault::Stall | Fault::Nonsense | Fault::Truncate => draws.below(tokens),
            Fault::Error | Fault::SlowFirst | Fault::NoDone | Fault::Busy => 0,
        };
        Some(Planned { fault: *fault, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_may_wait_for_a_number_of_tokens() {
        for (name, fault) in NAMES {
            assert_eq!(name.parse(), Ok(Planned { fault, after: 0 }));
            assert_eq!(fault.to_string(), name);
        }
        assert_eq!("reset@5".parse(), Ok(Planned { fault: Fault::Reset, after: 5 }));
        for text in ["", "rest", "reset@", "reset@-1", "reset@5@6", "@5"] {
            assert!(text.parse::<Planned>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn odds_that_make_no_sense_are_refused() {
        for text in ["error", "error=2", "error=-0.1", "error=NaN", "oops=0.1", "error=0.6,reset=0.6"] {
            assert!(text.parse::<Failures>().is_err(), "{text:?}");
        }
        assert_eq!("".parse(), Ok(Failures::default()));
    }

    #[test]
    fn calls_fail_as_often_as_the_odds_say() {
        let failures: Failures = "error=0.1, stall=0.2".parse().unwrap();
        let mut draws = Draws::new(7);
        let drawn: Vec<_> = (0..10_000).filter_map(|_| failures.draw(&mut draws, 8)).collect();
        let count = |fault| drawn.iter().filter(|planned| planned.fault == fault).count();
        assert!(count(Fault::Error).abs_diff(1000) < 100, "{}", count(Fault::Error));
        assert!(count(Fault::Stall).abs_diff(2000) < 150, "{}", count(Fault::Stall));
        assert!(drawn.iter().all(|planned| planned.after < 8));
        assert!(drawn.iter().any(|planned| planned.after > 0));
        assert_eq!(Failures::default().draw(&mut draws, 8), None);
    }
}
