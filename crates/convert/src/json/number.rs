//! A number as it is written, and its value in the datatypes of tensors, each rounded exactly once.

use std::str::FromStr;

/// Digits that always fit the mantissa.
const DIGITS_MAX: usize = 19;
/// Largest whole number up to which every whole number is an f64.
const EXACT_MAX: u64 = 1 << 53;
/// Powers of ten that are an f64 exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Exponent of a number whose mantissa is not known.
const UNKNOWN: i32 = i32::MAX;

/// A number: `mantissa` × 10^`exponent` but for the sign, unless the exponent is [`UNKNOWN`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number<'a> {
    pub(crate) text: &'a str,
    mantissa: u64,
    exponent: i32,
}

/// The parts of a number as they are met.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    mantissa: u64,
    digits: usize,
    fraction: i32,
    /// As written; meaningless beyond a few digits, when it saturates.
    exponent: i32,
}

impl Parts {
    /// Reads digits of the mantissa off the front of `bytes`; gives how many.
    #[inline]
    pub(super) fn whole(&mut self, bytes: &[u8]) -> usize {
        let mut mantissa = self.mantissa;
        let mut count = 0;
        for byte in bytes {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            mantissa = mantissa.wrapping_mul(10).wrapping_add(digit.into());
            count += 1;
        }
        self.mantissa = mantissa;
        self.digits += count;
        count
    }

    /// Reads digits after the point.
    #[inline]
    pub(super) fn fraction(&mut self, bytes: &[u8]) -> usize {
        let count = self.whole(bytes);
        self.fraction = i32::try_from(count).unwrap_or(i32::MAX);
        count
    }

    /// Reads digits of the exponent.
    pub(super) fn exponent(&mut self, bytes: &[u8], negative: bool) -> usize {
        let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
        let (count, value) = digits.fold((0, 0i32), |(count, value), digit| {
            (count + 1, value.saturating_mul(10).saturating_add(i32::from(digit - b'0')))
        });
        self.exponent = if negative { -value } else { value };
        count
    }

    #[inline]
    pub(super) fn number(self, text: &str) -> Number<'_> {
        let Self { mantissa, digits, fraction, exponent } = self;
        if digits > DIGITS_MAX {
            return Number { text, mantissa: 0, exponent: UNKNOWN };
        }
        Number { text, mantissa, exponent: exponent.saturating_sub(fraction) }
    }
}

impl<'a> Number<'a> {
    pub(crate) const NAN: Self = Self { text: "NaN", mantissa: 0, exponent: UNKNOWN };

    /// `NaN`, `Infinity` or `-Infinity`.
    pub(super) fn word(text: &'a str) -> Self {
        Self { text, ..Self::NAN }
    }

    /// As a whole number, also if it is written `1.0` or `1e3`.
    #[inline]
    pub(crate) fn whole<T: FromStr + TryFrom<u64> + TryFrom<i64>>(&self) -> Option<T> {
        match (self.exponent == 0, self.is_negative()) {
            (true, false) => T::try_from(self.mantissa).ok(),
            (true, true) => T::try_from(0i64.checked_sub_unsigned(self.mantissa)?).ok(),
            (false, _) => self.text.parse().ok().or_else(|| self.rounded()),
        }
    }

    fn rounded<T: TryFrom<i64>>(&self) -> Option<T> {
        let value: f64 = self.text.parse().ok()?;
        if value.fract() != 0.0 || value.abs() > EXACT_MAX as f64 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole and within the exact range")]
        T::try_from(value as i64).ok()
    }

    /// Whether it is written without point and exponent.
    pub(crate) fn is_whole(&self) -> bool {
        self.text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit())
    }

    /// As an f64; `None` if it is too large for one.
    #[inline]
    pub(crate) fn f64(&self) -> Option<f64> {
        match self.scaled() {
            // Both numbers are exact, so the one operation rounds once.
            Some(value) if self.mantissa <= EXACT_MAX => Some(value),
            _ => self.text.parse().ok().filter(|value: &f64| !value.is_infinite() || self.is_word()),
        }
    }

    /// As an f32; `None` if it is too large for one.
    #[inline]
    pub(crate) fn f32(&self) -> Option<f32> {
        match self.scaled() {
            #[expect(clippy::cast_possible_truncation, reason = "rounds, and was checked to round correctly")]
            Some(value) if rounds_clearly(value) => Some(value as f32),
            _ => self.text.parse().ok().filter(|value: &f32| !value.is_infinite() || self.is_word()),
        }
    }

    #[inline]
    fn is_negative(&self) -> bool {
        self.text.as_bytes().first() == Some(&b'-')
    }

    /// Whether it is `NaN` or an infinity by name.
    pub(crate) fn is_word(&self) -> bool {
        self.text.ends_with(|last: char| last.is_ascii_alphabetic())
    }

    /// The value within two units in the last place, rounded at most twice.
    #[inline]
    fn scaled(&self) -> Option<f64> {
        let power = *POWERS.get(self.exponent.unsigned_abs() as usize)?;
        let mantissa = self.mantissa as f64;
        let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
        Some(if self.is_negative() { -value } else { value })
    }
}

/// Whether an f64 a few units off rounds to the same f32: it is not close to the middle of two.
#[inline]
fn rounds_clearly(value: f64) -> bool {
    const LOW: u64 = (1 << 29) - 1;
    const MIDDLE: u64 = 1 << 28;
    let normal = value.abs() >= f64::from(f32::MIN_POSITIVE) && value.abs() <= f64::from(f32::MAX);
    value == 0.0 || (normal && (value.to_bits() & LOW).abs_diff(MIDDLE) > 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::json::{Dialect, Reader};

    fn read(text: &str) -> (Option<f32>, Option<f64>) {
        let number = Reader::new(text.as_bytes(), Dialect::NonFinite).unwrap().number().unwrap();
        assert_eq!(number.text, text);
        (number.f32(), number.f64())
    }

    fn assert_correct(text: &str) {
        let (single, double) = read(text);
        let expected: f32 = text.parse().unwrap();
        assert_eq!(single.map(f32::to_bits), expected.is_finite().then(|| expected.to_bits()), "{text}");
        let expected: f64 = text.parse().unwrap();
        assert_eq!(double.map(f64::to_bits), expected.is_finite().then(|| expected.to_bits()), "{text}");
    }

    #[test]
    fn hard_numbers_are_rounded_once() {
        for text in [
            "0",
            "-0",
            "-0.0",
            "0e5",
            "1e22",
            "1e23",
            "9007199254740993",
            "1.00000005960464477540",
            "1.000000059604644775390625",
            "1.00000005960464484",
            "16777217",
            "16777217.000000001",
            "3.4028235677973366e38",
            "3.4028235e38",
            "1.1754943508222875e-38",
            "1e-45",
            "7e-46",
            "0.7e-45",
            "2.2250738585072011e-308",
            "1e308",
            "1e309",
            "1e-400",
            "9999999999999999999",
            "99999999999999999999",
            "18446744073709551616",
            "1e99999999999",
            "1e-99999999999",
            "0.00000000000000000000000001",
        ] {
            assert_correct(text);
        }
        assert_eq!(read("-Infinity"), (Some(f32::NEG_INFINITY), Some(f64::NEG_INFINITY)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_number_is_rounded_as_by_the_standard_library(
            text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        ) {
            assert_correct(&text);
        }

        #[test]
        fn numbers_beside_the_middle_of_two_are_rounded_once(bits in 0u32..0x7f7f_ffff, nudge in -3i64..=3) {
            let middle = (f64::from(f32::from_bits(bits)) + f64::from(f32::from_bits(bits + 1))) / 2.0;
            let near = f64::from_bits(middle.to_bits().saturating_add_signed(nudge));
            assert_correct(&near.to_string());
            assert_correct(&format!("{near:e}"));
        }
    }
}
