//! Whether merging changes answers: the comparison behind the self-check. Pure.

use half::{bf16, f16};

use crate::{
    request::Outcome,
    tensor::{DataType, Tensor},
};

/// Requests that are computed singly and merged before the first merge is trusted.
pub(crate) const MEMBERS: usize = 4;
/// Relative and absolute difference that other summation orders explain.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;
/// The same for half-precision outputs.
const HALF: f64 = 1e-2;

/// Whether two answers to the same request are the same but for rounding.
pub(crate) fn same(a: &Outcome, b: &Outcome) -> bool {
    a.outputs.len() == b.outputs.len() && a.outputs.iter().zip(&b.outputs).all(|(a, b)| same_tensor(a, b))
}

fn same_tensor(a: &Tensor, b: &Tensor) -> bool {
    if a.name != b.name || a.datatype != b.datatype || a.shape != b.shape || a.data.len() != b.data.len() {
        return false;
    }
    match a.datatype {
        DataType::Fp32 => close(a, b, RELATIVE, |c: [u8; 4]| f64::from(f32::from_le_bytes(c))),
        DataType::Fp64 => close(a, b, RELATIVE, f64::from_le_bytes),
        DataType::Fp16 => close(a, b, HALF, |c| f16::from_le_bytes(c).to_f64()),
        DataType::Bf16 => close(a, b, HALF, |c| bf16::from_le_bytes(c).to_f64()),
        _ => a.data == b.data,
    }
}

fn close<const N: usize>(a: &Tensor, b: &Tensor, relative: f64, value: impl Fn([u8; N]) -> f64) -> bool {
    let values = |t: &Tensor| {
        t.data.chunks_exact(N).filter_map(|c| c.try_into().ok()).map(&value).collect::<Vec<f64>>()
    };
    values(a).into_iter().zip(values(b)).all(|(a, b)| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= ABSOLUTE + relative * a.abs().max(b.abs())
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn outcome(values: &[f32]) -> Outcome {
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Tensor::new("y", DataType::Fp32, vec![values.len() as u64], Bytes::from(data));
        Outcome { outputs: vec![tensor], ..Outcome::default() }
    }

    #[test]
    fn rounding_is_forgiven_and_difference_is_not() {
        assert!(same(&outcome(&[1.0, 0.0, f32::NAN]), &outcome(&[1.000_4, 0.000_001, f32::NAN])));
        assert!(!same(&outcome(&[1.0]), &outcome(&[1.01])));
        assert!(!same(&outcome(&[1.0]), &outcome(&[f32::NAN])));
        assert!(!same(&outcome(&[1.0]), &outcome(&[1.0, 1.0])));
    }
}
