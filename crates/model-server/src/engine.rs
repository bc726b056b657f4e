//! One ONNX model: loaded once, with its symbolic dimensions kept, and computed by any number of threads.

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use pipeline::{
    request::{Inference, Outcome, RequestedOutput},
    tensor::{DataType, Metadata, Parameters, Tensor, TensorSpec},
};
use tract_onnx::prelude::{
    DatumType, Framework as _, InferenceModelExt as _, IntoRunnable as _, OutletId, TDim, TValue, TVec,
    TractError, TypedModel, TypedRunnableModel,
};

/// The only version a model has here.
pub(crate) const VERSION: &str = "1";
const PLATFORM: &str = "onnx_tract";
const NAME_BYTES_MAX: usize = 128;

/// A loaded model. Computing is pure and blocks the thread; every call has a state of its own.
pub struct Model {
    metadata: Metadata,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    plan: Arc<TypedRunnableModel>,
}

/// A named input or output of the graph.
struct Port {
    name: String,
    datatype: DataType,
    /// The runtime's word for `datatype`.
    datum_type: DatumType,
    shape: Vec<TDim>,
}

/// Why a file cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "model name {0:?}: use 1 to 128 letters, digits, '.', '_' and '-', the first of them a letter or digit"
    )]
    Name(String),
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("model {model:?}: {source:#}")]
    Graph { model: String, source: TractError },
    #[error("model {model:?}: tensor {tensor:?} has the type {datatype}, which cannot be served")]
    Type { model: String, tensor: String, datatype: String },
}

/// Why a model gave no answer. Everything but [`InferError::Failed`] is the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    #[error(transparent)]
    Mismatch(#[from] convert::Error),
    #[error("input {input:?}: {problem}")]
    Input { input: String, problem: InputProblem },
    #[error("inputs disagree on dimension {dimension:?}: {first}, {second}")]
    Disagree { dimension: String, first: NamedSize, second: NamedSize },
    #[error("the inputs do not fit together: a shape computed from one of them differs from another's")]
    Shapes,
    #[error("the model failed to compute its outputs")]
    Failed(TractError),
}

/// What is wrong with one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputProblem {
    #[error("missing")]
    Missing,
    #[error("a dimension is 0, but a call needs at least one element")]
    Empty,
    #[error("{got} bytes of data, but its shape needs {want}")]
    Length { got: usize, want: usize },
    #[error("a BOOL is one byte, 0 or 1, but byte {0} is neither")]
    NotBool(usize),
    #[error("its shape is larger than memory")]
    Huge,
}

/// The size of one input along a shared dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSize {
    pub input: String,
    pub size: u64,
}

impl fmt::Display for NamedSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} has {}", self.input, self.size)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl Model {
    /// Reads the file and prepares it under `name`.
    ///
    /// # Errors
    /// The file cannot be read, is not ONNX, or uses what the runtime does not know.
    pub fn from_path(name: &str, path: &Path) -> Result<Self, LoadError> {
        let onnx = std::fs::read(path)
            .map_err(|source| LoadError::Read { path: path.display().to_string(), source })?;
        Self::from_bytes(name, &onnx)
    }

    /// Prepares the bytes of an ONNX file under `name`.
    ///
    /// # Errors
    /// The bytes are not ONNX, or use what the runtime does not know.
    pub fn from_bytes(name: &str, onnx: &[u8]) -> Result<Self, LoadError> {
        if !is_name(name) {
            return Err(LoadError::Name(name.to_owned()));
        }
        let (typed, names) =
            parse(onnx).map_err(|source| LoadError::Graph { model: name.to_owned(), source })?;
        let inputs = ports(name, names.inputs, &typed, &typed.inputs)?;
        let outputs = ports(name, names.outputs, &typed, &typed.outputs)?;
        let plan = typed
            .into_optimized()
            .and_then(|optimized| optimized.into_runnable())
            .map_err(|source| LoadError::Graph { model: name.to_owned(), source })?;
        let metadata = Metadata {
            name: name.to_owned(),
            versions: vec![VERSION.to_owned()],
            platform: PLATFORM.to_owned(),
            inputs: inputs.iter().map(Port::spec).collect(),
            outputs: outputs.iter().map(Port::spec).collect(),
        };
        Ok(Self { metadata, inputs, outputs, plan })
    }

    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Checks the request, then computes it. Blocks for as long as the model takes.
    ///
    /// # Errors
    /// The request does not fit the model, or the model failed on it.
    pub fn infer(&self, inference: &Inference) -> Result<Outcome, InferError> {
        self.check(inference)?;
        self.compute(inference)
    }

    /// Whether names, types and shapes fit the model. Cheap: looks at no data.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self, inference: &Inference) -> Result<(), InferError> {
        convert::metadata::check(inference, &self.metadata)?;
        self.check_shared_dimensions(inference)
    }

    /// Computes a request that [`Model::check`] let pass.
    pub(crate) fn compute(&self, inference: &Inference) -> Result<Outcome, InferError> {
        let values = self
            .inputs
            .iter()
            .map(|port| to_tract(port, find(inference, port)?).map(Into::into))
            .collect::<Result<TVec<TValue>, _>>()?;
        let mut state = self.plan.spawn().map_err(InferError::Failed)?;
        state.set_inputs(values).map_err(|_| InferError::Shapes)?;
        state.exec().map_err(InferError::Failed)?;
        let values = state.outputs().map_err(InferError::Failed)?;
        Ok(Outcome {
            model_name: self.metadata.name.clone(),
            model_version: VERSION.to_owned(),
            outputs: self.select(&inference.outputs, &values)?,
            parameters: Parameters::new(),
        })
    }

    /// The outputs asked for, in the order asked for; all of them where none is named.
    fn select(&self, asked: &[RequestedOutput], values: &[TValue]) -> Result<Vec<Tensor>, InferError> {
        let all = self.outputs.iter().zip(values);
        if asked.is_empty() {
            return all.map(|(port, value)| from_tract(port, value)).collect();
        }
        asked
            .iter()
            .filter_map(|output| all.clone().find(|(port, _)| port.name == output.name))
            .map(|(port, value)| from_tract(port, value))
            .collect()
    }

    /// A symbol of the graph has one value per call, whichever inputs it occurs in.
    fn check_shared_dimensions(&self, inference: &Inference) -> Result<(), InferError> {
        let mut known: Vec<(&TDim, NamedSize)> = Vec::new();
        for port in &self.inputs {
            let tensor = find(inference, port)?;
            for (dim, &size) in port.shape.iter().zip(&tensor.shape) {
                if size == 0 {
                    return Err(InferError::Input { input: port.name.clone(), problem: InputProblem::Empty });
                }
                let here = NamedSize { input: port.name.clone(), size };
                match known.iter().find(|(symbol, _)| *symbol == dim) {
                    Some((_, first)) if first.size != size => {
                        return Err(InferError::Disagree {
                            dimension: dim.to_string(),
                            first: first.clone(),
                            second: here,
                        });
                    }
                    None if matches!(dim, TDim::Sym(_)) => known.push((dim, here)),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Port {
    fn spec(&self) -> TensorSpec {
        TensorSpec {
            name: self.name.clone(),
            datatype: self.datatype,
            shape: self.shape.iter().map(|dim| dim.to_i64().unwrap_or(-1)).collect(),
        }
    }
}

/// The names a graph gives to its inputs and outputs; optimizing may rename what stands behind them.
struct Names {
    inputs: Vec<String>,
    outputs: Vec<String>,
}

fn parse(mut onnx: &[u8]) -> Result<(TypedModel, Names), TractError> {
    let graph = tract_onnx::onnx().model_for_read(&mut onnx)?;
    let inputs = graph.input_outlets()?.iter().map(|outlet| graph.node(outlet.node).name.clone()).collect();
    let outputs = graph
        .output_outlets()?
        .iter()
        .map(|outlet| graph.outlet_label(*outlet).unwrap_or(&graph.node(outlet.node).name).to_owned())
        .collect();
    Ok((graph.into_typed()?, Names { inputs, outputs }))
}

fn ports(
    model: &str,
    names: Vec<String>,
    graph: &TypedModel,
    outlets: &[OutletId],
) -> Result<Vec<Port>, LoadError> {
    names
        .into_iter()
        .zip(outlets)
        .map(|(name, outlet)| {
            let fact = graph
                .outlet_fact(*outlet)
                .map_err(|source| LoadError::Graph { model: model.to_owned(), source })?;
            let Some((datum_type, datatype)) = served_as(fact.datum_type) else {
                let datatype = format!("{:?}", fact.datum_type);
                return Err(LoadError::Type { model: model.to_owned(), tensor: name, datatype });
            };
            Ok(Port { name, datatype, datum_type, shape: fact.shape.iter().cloned().collect() })
        })
        .collect()
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn find<'a>(inference: &'a Inference, port: &Port) -> Result<&'a Tensor, InferError> {
    inference
        .inputs
        .iter()
        .find(|tensor| tensor.name == port.name)
        .ok_or_else(|| InferError::Input { input: port.name.clone(), problem: InputProblem::Missing })
}

/// The types a tensor has in the runtime and on the wire.
fn served_as(datum_type: DatumType) -> Option<(DatumType, DataType)> {
    let datatype = match datum_type {
        DatumType::Bool => DataType::Bool,
        DatumType::U8 => DataType::Uint8,
        DatumType::U16 => DataType::Uint16,
        DatumType::U32 => DataType::Uint32,
        DatumType::U64 => DataType::Uint64,
        DatumType::I8 => DataType::Int8,
        DatumType::I16 => DataType::Int16,
        DatumType::I32 => DataType::Int32,
        DatumType::I64 => DataType::Int64,
        DatumType::F16 => DataType::Fp16,
        DatumType::F32 => DataType::Fp32,
        DatumType::F64 => DataType::Fp64,
        // The runtime computes shapes in a type of its own; they leave a graph as integers.
        DatumType::TDim => return Some((DatumType::I64, DataType::Int64)),
        _ => return None,
    };
    Some((datum_type, datatype))
}

fn to_tract(port: &Port, tensor: &Tensor) -> Result<tract_onnx::prelude::Tensor, InferError> {
    let refuse = |problem| InferError::Input { input: tensor.name.clone(), problem };
    let want = tensor
        .elements()
        .and_then(|elements| usize::try_from(elements).ok())
        .and_then(|elements| elements.checked_mul(port.datum_type.size_of()))
        .ok_or_else(|| refuse(InputProblem::Huge))?;
    // Before any memory is taken for the shape: the bytes are there, so the shape is no larger than they are.
    if tensor.data.len() != want {
        return Err(refuse(InputProblem::Length { got: tensor.data.len(), want }));
    }
    // A `bool` of any other value would be undefined behaviour in the runtime.
    if port.datum_type == DatumType::Bool
        && let Some(at) = tensor.data.iter().position(|byte| *byte > 1)
    {
        return Err(refuse(InputProblem::NotBool(at)));
    }
    let shape = tensor.shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| refuse(InputProblem::Huge))?;
    let mut value =
        tract_onnx::prelude::Tensor::zero_dt(port.datum_type, &shape).map_err(InferError::Failed)?;
    value.as_bytes_mut().copy_from_slice(&tensor.data);
    Ok(value)
}

fn from_tract(port: &Port, value: &TValue) -> Result<Tensor, InferError> {
    let shape = value.shape().iter().map(|&dim| dim as u64).collect();
    let plain = value.cast_to_dt(port.datum_type).map_err(InferError::Failed)?;
    Ok(Tensor::new(port.name.clone(), port.datatype, shape, Bytes::copy_from_slice(plain.as_bytes())))
}

#[cfg(test)]
mod tests;
