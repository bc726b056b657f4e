//! How requests are spaced at a given rate: renewal processes whose gaps have a mean of one.
//!
//! A gap of one is stretched by the rate later, so one implementation serves every profile.

use std::{f64::consts::PI, str::FromStr};

use rand::Rng;

use crate::Error;

const USAGE: &str = "constant, poisson, gamma:CV or weibull:SHAPE";

/// The distribution of the gaps between requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spacing {
    /// Every gap alike.
    Constant,
    /// Exponential gaps: independent callers.
    Poisson,
    /// Gamma gaps. A shape below one is burstier than Poisson; CV = 1/√shape.
    Gamma { shape: f64 },
    /// Weibull gaps. A shape below one is burstier than Poisson.
    Weibull { shape: f64 },
}

impl Spacing {
    /// One gap; the mean of many is 1.
    pub fn draw(self, rng: &mut impl Rng) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Poisson => exponential(rng),
            Self::Gamma { shape } => gamma(shape, rng) / shape,
            Self::Weibull { shape } => {
                exponential(rng).powf(shape.recip()) / gamma_function(1.0 + shape.recip())
            }
        }
    }
}

impl FromStr for Spacing {
    type Err = Error;

    /// `constant`, `poisson`, `gamma:CV` or `weibull:SHAPE`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "constant" => Ok(Self::Constant),
            None if text == "poisson" => Ok(Self::Poisson),
            Some(("gamma", cv)) => {
                let cv = positive(cv)?;
                Ok(Self::Gamma { shape: (cv * cv).recip() })
            }
            Some(("weibull", shape)) => Ok(Self::Weibull { shape: positive(shape)? }),
            _ => Err(Error::Usage(USAGE)),
        }
    }
}

fn positive(text: &str) -> Result<f64, Error> {
    let value: f64 = text.parse().map_err(|source| Error::Number { text: text.to_owned(), source })?;
    if !value.is_finite() || value <= 0.0 {
        return Err(Error::NotPositive(value));
    }
    Ok(value)
}

fn exponential(rng: &mut impl Rng) -> f64 {
    // `random` is in [0, 1): one minus it is never zero, so the logarithm is finite.
    -(1.0 - rng.random::<f64>()).ln()
}

fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * (2.0 * PI * rng.random::<f64>()).cos()
}

/// Marsaglia and Tsang's method (2000); a shape below one is boosted by a power of a uniform draw.
fn gamma(shape: f64, rng: &mut impl Rng) -> f64 {
    if shape < 1.0 {
        let boost = (1.0 - rng.random::<f64>()).powf(shape.recip());
        return boost * gamma(shape + 1.0, rng);
    }
    let d = shape - 1.0 / 3.0;
    let c = (9.0 * d).sqrt().recip();
    loop {
        let x = normal(rng);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && (1.0 - rng.random::<f64>()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// Γ(x) for x ≥ 1, by Stirling's series after shifting the argument above 10; relative error below 1e-10.
fn gamma_function(x: f64) -> f64 {
    let mut shifted = x;
    let mut divisor = 1.0;
    while shifted < 10.0 {
        divisor *= shifted;
        shifted += 1.0;
    }
    let series = 1.0 / (12.0 * shifted) - 1.0 / (360.0 * shifted.powi(3)) + 1.0 / (1260.0 * shifted.powi(5));
    (2.0 * PI / shifted).sqrt() * (shifted.ln() * shifted - shifted + series).exp() / divisor
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    /// Mean and coefficient of variation of many gaps.
    fn moments(spacing: Spacing) -> (f64, f64) {
        const N: u32 = 200_000;
        let mut rng = StdRng::seed_from_u64(7);
        let gaps: Vec<f64> = (0..N).map(|_| spacing.draw(&mut rng)).collect();
        let mean = gaps.iter().sum::<f64>() / f64::from(N);
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / f64::from(N);
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn every_spacing_has_a_mean_of_one_and_its_own_variation() {
        for (text, cv) in
            [("constant", 0.0), ("poisson", 1.0), ("gamma:2", 2.0), ("gamma:0.5", 0.5), ("weibull:1", 1.0)]
        {
            let (mean, measured) = moments(text.parse().unwrap());
            assert!((mean - 1.0).abs() < 0.02, "{text}: mean {mean}");
            assert!((measured - cv).abs() < 0.03, "{text}: cv {measured}");
        }
    }

    #[test]
    fn a_weibull_shape_below_one_is_burstier_than_poisson() {
        // CV² = Γ(1 + 2/k)/Γ(1 + 1/k)² − 1 = 5 for k = 0.5.
        let (mean, cv) = moments(Spacing::Weibull { shape: 0.5 });
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!((cv - 5f64.sqrt()).abs() < 0.1, "cv {cv}");
    }

    #[test]
    fn the_gamma_function_agrees_with_factorials_and_the_half() {
        for (x, value) in [(1.0, 1.0), (2.0, 1.0), (5.0, 24.0), (1.5, PI.sqrt() / 2.0)] {
            assert!((gamma_function(x) / value - 1.0).abs() < 1e-9, "gamma({x})");
        }
    }

    #[test]
    fn a_spacing_that_cannot_be_is_refused() {
        for text in ["", "poison", "gamma", "gamma:0", "gamma:-1", "weibull:x", "gamma:inf"] {
            assert!(text.parse::<Spacing>().is_err(), "{text:?}");
        }
    }
}
