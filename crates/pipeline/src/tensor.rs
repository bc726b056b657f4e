//! Tensors as bytes: datatype, shape, little-endian row-major data. No wire format is known here.

use std::{fmt, str::FromStr};

use bytes::Bytes;

/// Element type of a tensor, by the names of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bf16,
    Bytes,
}

impl DataType {
    /// Every datatype, in the order in which messages list them.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::Bytes,
    ];

    /// Bytes per element; `None` for BYTES, whose elements each carry a four-byte little-endian length.
    #[must_use]
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::Bytes => "BYTES",
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is not one of [`DataType::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown datatype")]
pub struct UnknownDataType;

impl FromStr for DataType {
    type Err = UnknownDataType;

    fn from_str(name: &str) -> Result<Self, UnknownDataType> {
        Self::ALL.into_iter().find(|datatype| datatype.as_str() == name).ok_or(UnknownDataType)
    }
}

/// One named tensor.
///
/// `data` holds exactly `shape.product()` elements, little-endian and row-major; an element of BYTES is a
/// four-byte little-endian length and that many bytes. Whoever builds a tensor from client data checks this.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<u64>,
    pub data: Bytes,
    pub parameters: Parameters,
}

impl Tensor {
    #[must_use]
    pub fn new(name: impl Into<String>, datatype: DataType, shape: Vec<u64>, data: Bytes) -> Self {
        Self { name: name.into(), datatype, shape, data, parameters: Parameters::new() }
    }

    /// Length of the batch dimension; `None` for a scalar.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        self.shape.first().copied()
    }

    /// Elements by the shape; `None` if the product does not fit.
    #[must_use]
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))
    }
}

/// A request, input or output parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
}

/// Parameters by name, in a fixed order.
pub type Parameters = std::collections::BTreeMap<String, Parameter>;

/// What a served model says of one of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: DataType,
    /// `-1` is a dimension of any length.
    pub shape: Vec<i64>,
}

/// What a served model says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pub name: String,
    pub versions: Vec<String>,
    pub platform: String,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

impl Metadata {
    /// Whether every input and output has a first dimension of any length: rows may be merged.
    #[must_use]
    pub fn has_batch_dimension(&self) -> bool {
        !self.inputs.is_empty()
            && !self.outputs.is_empty()
            && self.inputs.iter().chain(&self.outputs).all(|spec| spec.shape.first() == Some(&-1))
    }
}
