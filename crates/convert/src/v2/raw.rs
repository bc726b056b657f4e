//! A request whose whole body is the bytes of one tensor (`Inference-Header-Content-Length: 0`).

use bytes::Bytes;
use pipeline::{
    request::Inference,
    tensor::{Metadata, Tensor, TensorSpec},
};

use crate::{
    Decoded,
    elements::{self, push_string},
    error::{Error, Place},
    mirror::Mirror,
    quote::Quoted,
};

/// Makes `body` the one input of the model. A dimension of any length is found from the size of the body; a
/// BYTES input takes the whole body as its one element. The answer is binary, as in Triton.
///
/// # Errors
/// If the model has several inputs or more than one dimension of any length, or the size does not fit.
pub fn parse_raw(body: &Bytes, metadata: &Metadata) -> Result<Decoded, Error> {
    let unknown = || Error::RawBody { model: Quoted::new(&metadata.name), inputs: metadata.inputs.len() };
    let [spec] = metadata.inputs.as_slice() else { return Err(unknown()) };
    let (shape, data) = match spec.datatype.size() {
        Some(width) => (fixed_shape(spec, width, body.len()).ok_or_else(unknown)?, body.clone()),
        None => {
            let mut data = Vec::with_capacity(body.len() + 4);
            push_string(&mut data, body);
            (vec![1; spec.shape.len()], data.into())
        }
    };
    elements::check(spec.datatype, &shape, &data).map_err(Place::input(&spec.name).error())?;
    let inputs = vec![Tensor::new(&spec.name, spec.datatype, shape, data)];
    let inference = Inference { inputs, ..Inference::default() };
    Ok(Decoded { inference, class: None, timeout: None, mirror: Mirror::binary() })
}

/// The shape with its one open dimension filled in, as far as the size divides; the check of the size follows.
fn fixed_shape(spec: &TensorSpec, width: usize, size: usize) -> Option<Vec<u64>> {
    let open = spec.shape.iter().filter(|dim| **dim < 0).count();
    let known: Vec<u64> = spec.shape.iter().filter_map(|dim| u64::try_from(*dim).ok()).collect();
    let row = known.iter().try_fold(width as u64, |product, dim| product.checked_mul(*dim))?;
    if open > 1 || (open == 1 && row == 0) {
        return None;
    }
    let rows = if open == 1 { size as u64 / row } else { 1 };
    Some(spec.shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(rows)).collect())
}
