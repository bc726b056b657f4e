//! Where requests come from: samples in a file, or random tensors, in the shape the model asks for.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use pipeline::{
    request::Inference,
    tensor::{DataType, Metadata, Tensor, TensorSpec},
};
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;

use crate::message::{Call, Message, Protocol, unframed};

/// Different random requests; sent in turn.
const RANDOM_MESSAGES: usize = 64;

/// Different requests kept encoded in memory.
const MESSAGES_MAX: usize = 10_000;

/// Elements of one random tensor, as a guard against absurd shapes.
const ELEMENTS_MAX: usize = 16 << 20;

/// What the requests of a run consist of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe<'a> {
    /// Rows of the batch dimension in each request.
    pub(crate) rows: usize,
    /// A file of samples; random numbers without one.
    pub(crate) samples: Option<&'a Path>,
    /// The key of a sample that holds the number its answer should have.
    pub(crate) expect: Option<&'a str>,
    pub(crate) seed: u64,
}

/// Encodes the requests of a run for a model with these inputs.
pub(crate) fn messages(
    call: &Call<'_>,
    inputs: &[TensorSpec],
    recipe: Recipe<'_>,
) -> anyhow::Result<Vec<Message>> {
    ensure!(recipe.rows > 0, "a request has at least one row");
    ensure!(!inputs.is_empty(), "the model names no inputs: give --input NAME:DATATYPE:DIMS");
    match recipe.samples {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let samples = samples(&text).with_context(|| format!("{}", path.display()))?;
            from_samples(call, inputs, &samples, recipe)
        }
        None => {
            ensure!(recipe.expect.is_none(), "answers to random inputs cannot be checked: give --data FILE");
            let mut rng = StdRng::seed_from_u64(recipe.seed);
            (0..RANDOM_MESSAGES).map(|_| random(call, inputs, recipe.rows, &mut rng)).collect()
        }
    }
}

/// What the model says of itself in the body of a metadata answer.
pub(crate) fn metadata(protocol: Protocol, body: &Bytes) -> anyhow::Result<Metadata> {
    if !protocol.is_grpc() {
        return Ok(convert::metadata::from_json(body)?);
    }
    let message = unframed(body).context("the answer is not a gRPC message")?;
    let response = proto::inference::ModelMetadataResponse::decode(message)?;
    Ok(convert::metadata::from_grpc(response)?)
}

/// `NAME:DATATYPE:DIM,DIM…`, the dimensions of one row.
pub(crate) fn input(text: &str) -> anyhow::Result<TensorSpec> {
    let mut parts = text.splitn(3, ':');
    let (Some(name), Some(datatype), dims) = (parts.next(), parts.next(), parts.next().unwrap_or_default())
    else {
        bail!("use NAME:DATATYPE:DIM,DIM");
    };
    let datatype: DataType = datatype.parse().with_context(|| format!("{datatype:?}"))?;
    let dims = dims.split(',').filter(|dim| !dim.is_empty()).map(str::parse::<i64>);
    let shape = std::iter::once(Ok(-1)).chain(dims).collect::<Result<_, _>>()?;
    Ok(TensorSpec { name: name.to_owned(), datatype, shape })
}

/// The list in the file, which may be wrapped in `{"samples": …}`.
fn samples(text: &str) -> anyhow::Result<Vec<Value>> {
    let mut file: Value = serde_json::from_str(text)?;
    let list = file.get_mut("samples").map(Value::take).unwrap_or(file);
    match list {
        Value::Array(list) if !list.is_empty() => Ok(list),
        _ => bail!("expected a list of samples, or an object with the key \"samples\""),
    }
}

fn from_samples(
    call: &Call<'_>,
    inputs: &[TensorSpec],
    samples: &[Value],
    recipe: Recipe<'_>,
) -> anyhow::Result<Vec<Message>> {
    // Every sample is sent once per round; the last request is filled up from the start of the list.
    let requests = samples.len().div_ceil(recipe.rows).min(MESSAGES_MAX);
    let mut turn = samples.iter().cycle();
    (0..requests)
        .map(|_| {
            let rows: Vec<&Value> = turn.by_ref().take(recipe.rows).collect();
            let tensors =
                inputs.iter().map(|spec| sampled(spec, inputs.len(), &rows)).collect::<Result<_, _>>()?;
            let expected = expectations(&rows, recipe.expect)?;
            Message::infer(call, &Inference { inputs: tensors, ..Inference::default() }, expected)
        })
        .collect()
}

fn expectations(rows: &[&Value], key: Option<&str>) -> anyhow::Result<Vec<f64>> {
    let Some(key) = key else { return Ok(Vec::new()) };
    let number = |row: &&Value| row.get(key).and_then(Value::as_f64);
    rows.iter()
        .map(|row| number(row).with_context(|| format!("a sample has no number {key:?} to check")))
        .collect()
}

/// One input of one request, put together from its rows' samples.
fn sampled(spec: &TensorSpec, inputs: usize, rows: &[&Value]) -> anyhow::Result<Tensor> {
    let mut data = Vec::new();
    let mut elements = 0;
    for row in rows {
        let value = match row.get(&spec.name) {
            Some(value) => value,
            None if inputs == 1 && row.is_array() => row,
            None => bail!("a sample has no {:?}", spec.name),
        };
        elements +=
            append(spec.datatype, value, &mut data).with_context(|| format!("input {:?}", spec.name))?;
    }
    let shape = shape(spec, rows.len())?;
    let tensor = Tensor::new(&spec.name, spec.datatype, shape, data.into());
    let wanted = tensor.elements();
    ensure!(
        wanted == Some(elements),
        "input {:?}: {:?} needs other than {elements} values",
        spec.name,
        tensor.shape
    );
    Ok(tensor)
}

/// Appends the elements of a nested list, and counts them.
fn append(datatype: DataType, value: &Value, data: &mut Vec<u8>) -> anyhow::Result<u64> {
    if let Value::Array(list) = value {
        return list.iter().map(|value| append(datatype, value, data)).sum();
    }
    let wrong = || format!("{value} is no {datatype}");
    match datatype {
        DataType::Bytes => {
            let text = value.as_str().with_context(wrong)?;
            data.extend(u32::try_from(text.len())?.to_le_bytes());
            data.extend(text.as_bytes());
        }
        DataType::Bool => data.push(u8::from(value.as_bool().with_context(wrong)?)),
        DataType::Fp32 => data.extend((value.as_f64().with_context(wrong)? as f32).to_le_bytes()),
        DataType::Fp64 => data.extend(value.as_f64().with_context(wrong)?.to_le_bytes()),
        DataType::Uint64 => data.extend(value.as_u64().with_context(wrong)?.to_le_bytes()),
        DataType::Fp16 | DataType::Bf16 => bail!("{datatype} cannot be read from samples"),
        _ => append_integer(datatype, value.as_i64().with_context(wrong)?, data).with_context(wrong)?,
    }
    Ok(1)
}

fn append_integer(datatype: DataType, value: i64, data: &mut Vec<u8>) -> anyhow::Result<()> {
    match datatype {
        DataType::Int8 => data.extend(i8::try_from(value)?.to_le_bytes()),
        DataType::Int16 => data.extend(i16::try_from(value)?.to_le_bytes()),
        DataType::Int32 => data.extend(i32::try_from(value)?.to_le_bytes()),
        DataType::Uint8 => data.extend(u8::try_from(value)?.to_le_bytes()),
        DataType::Uint16 => data.extend(u16::try_from(value)?.to_le_bytes()),
        DataType::Uint32 => data.extend(u32::try_from(value)?.to_le_bytes()),
        _ => data.extend(value.to_le_bytes()),
    }
    Ok(())
}

/// The model's shape with the number of rows put in and every other open dimension as one.
fn shape(spec: &TensorSpec, rows: usize) -> anyhow::Result<Vec<u64>> {
    let mut dims = spec.shape.iter().map(|dim| u64::try_from(*dim).unwrap_or(1)).collect::<Vec<_>>();
    match (spec.shape.first(), dims.first_mut()) {
        (Some(-1), Some(first)) => *first = rows as u64,
        _ => ensure!(rows == 1, "input {:?} has no batch dimension: use one row", spec.name),
    }
    Ok(dims)
}

fn random(call: &Call<'_>, inputs: &[TensorSpec], rows: usize, rng: &mut StdRng) -> anyhow::Result<Message> {
    let mut tensors = Vec::with_capacity(inputs.len());
    for spec in inputs {
        let shape = shape(spec, rows)?;
        let mut tensor = Tensor::new(&spec.name, spec.datatype, shape, Bytes::new());
        let elements = tensor.elements().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= ELEMENTS_MAX);
        let elements = elements.with_context(|| format!("input {:?} is too large", spec.name))?;
        let mut data = Vec::new();
        for _ in 0..elements {
            append_random(spec.datatype, rng, &mut data);
        }
        tensor.data = data.into();
        tensors.push(tensor);
    }
    Message::infer(call, &Inference { inputs: tensors, ..Inference::default() }, Vec::new())
}

/// Small numbers that any model takes: integers below 16, fractions below 1, words of eight letters.
fn append_random(datatype: DataType, rng: &mut StdRng, data: &mut Vec<u8>) {
    match datatype {
        DataType::Bool => data.push(u8::from(rng.random::<bool>())),
        DataType::Bytes => {
            data.extend(8u32.to_le_bytes());
            data.extend((0..8).map(|_| rng.random_range(b'a'..=b'z')));
        }
        // An exponent of -1 with any mantissa: from a half to one.
        DataType::Fp16 => data.extend((0x3800u16 | rng.random_range(0..0x400)).to_le_bytes()),
        DataType::Bf16 => data.extend((0x3f00u16 | rng.random_range(0..0x80)).to_le_bytes()),
        DataType::Fp32 => data.extend(rng.random::<f32>().to_le_bytes()),
        DataType::Fp64 => data.extend(rng.random::<f64>().to_le_bytes()),
        _ => {
            let number = rng.random_range(0u64..16).to_le_bytes();
            data.extend(number.iter().take(datatype.size().unwrap_or(8)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels() -> TensorSpec {
        input("pixels:FP32:2,2").unwrap()
    }

    #[test]
    fn an_input_written_by_hand_has_an_open_batch_dimension() {
        assert_eq!(
            pixels(),
            TensorSpec { name: "pixels".into(), datatype: DataType::Fp32, shape: vec![-1, 2, 2] }
        );
        assert_eq!(input("text:BYTES").unwrap().shape, [-1]);
        for text in ["pixels", "pixels:FLOAT:2", "pixels:FP32:x"] {
            assert!(input(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rows_of_samples_become_one_tensor_and_their_expectations() {
        let list =
            samples(r#"{"samples":[{"pixels":[[0,1],[2,3]],"class":4},{"pixels":[4,5,6,7],"class":9}]}"#)
                .unwrap();
        let rows: Vec<&Value> = list.iter().collect();
        let tensor = sampled(&pixels(), 1, &rows).unwrap();
        assert_eq!(tensor.shape, [2, 2, 2]);
        let numbers: Vec<f32> =
            tensor.data.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(numbers, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(expectations(&rows, Some("class")).unwrap(), [4.0, 9.0]);
        assert!(expectations(&rows, Some("label")).is_err());
    }

    #[test]
    fn a_sample_that_does_not_fit_the_model_is_refused() {
        for (sample, part) in [
            (r#"[{"pixels":[1,2,3]}]"#, "values"),
            (r#"[{"image":[1,2,3,4]}]"#, "no \"pixels\""),
            (r#"[{"pixels":[1,2,3,"x"]}]"#, "is no FP32"),
        ] {
            let list = samples(sample).unwrap();
            let error = format!("{:#}", sampled(&pixels(), 1, &list.iter().collect::<Vec<_>>()).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
        assert!(samples("{}").is_err());
        assert!(samples("[]").is_err());
    }

    #[test]
    fn a_number_outside_of_its_type_is_refused() {
        assert!(append(DataType::Uint8, &Value::from(256), &mut Vec::new()).is_err());
        assert!(append(DataType::Int8, &Value::from(-128), &mut Vec::new()).is_ok());
    }
}
