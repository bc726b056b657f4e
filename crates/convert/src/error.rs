//! Why a message was refused. Every text is a sentence for the client: at most 300 characters, with what the
//! client wrote in quotes, escaped and cut.

use pipeline::tensor::DataType;

use crate::quote::{self, Clipped, Listed, Quoted};

/// Most inputs, and most requested outputs, of a request.
pub(crate) const TENSORS_MAX: usize = 64;
/// Most dimensions of a tensor.
pub(crate) const RANK_MAX: usize = 16;
/// Largest dimension of a tensor.
pub(crate) const DIM_MAX: u64 = 1 << 31;
/// Deepest JSON.
pub(crate) const NESTING_MAX: usize = 100;
/// Longest id, in characters.
pub(crate) const ID_MAX: usize = 256;

/// Why a message was refused; its text is for whoever sent the message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("body is not valid JSON: {what} at line {line} column {column}")]
    Syntax { what: &'static str, line: usize, column: usize },
    #[error(
        "body is not valid JSON: it ends at column {column} of line {line}; \
         Inference-Header-Content-Length says {header_length}"
    )]
    HeaderCut { line: usize, column: usize, header_length: usize },
    #[error("JSON nesting exceeds {NESTING_MAX} levels")]
    Nesting,
    #[error("duplicate field {0}")]
    DuplicateField(Quoted),
    #[error("missing field \"{0}\"")]
    MissingField(&'static str),
    #[error("body must be a JSON object")]
    NotAnObject,
    #[error("\"{field}\" must be {expected}")]
    FieldType { field: &'static str, expected: &'static str },
    #[error("\"{0}\" is empty")]
    Empty(&'static str),
    #[error("more than {TENSORS_MAX} {0}")]
    TooMany(&'static str),
    #[error("input {0} is given twice")]
    DuplicateInput(Quoted),
    #[error("output {0} already requested")]
    DuplicateOutput(Quoted),
    #[error("\"id\" is longer than {ID_MAX} characters")]
    IdTooLong,
    #[error("\"id\" has a control character")]
    IdControl,
    #[error("parameter {name} must be {expected}")]
    Parameter { name: Quoted, expected: &'static str },
    #[error("shared memory is not available through the gateway")]
    SharedMemory,
    #[error("this model is called over the OpenAI protocol only")]
    OpenAiOnly,
    #[error("more than {limit} inputs")]
    TooManyInputs { limit: usize },
    #[error("{got} embeddings for {expected} inputs")]
    EmbeddingCount { expected: usize, got: usize },
    #[error("\"index\" {0} of an embedding is given twice or belongs to no input")]
    EmbeddingIndex(usize),

    #[error("{place}: {problem}")]
    Tensor { place: Place, problem: Problem },
    #[error("inputs disagree on batch size: {0}")]
    BatchSize(Listed),
    #[error("decoded tensors take {bytes} bytes, the limit is {limit}")]
    TooLarge { bytes: usize, limit: usize },

    #[error("Inference-Header-Content-Length must be a whole number, got {0}")]
    HeaderLength(Quoted),
    #[error("Inference-Header-Content-Length is {header_length}, but the body has {body} bytes")]
    HeaderBeyondBody { header_length: usize, body: usize },
    #[error("binary_data_size: {declared} bytes declared, {present} present")]
    BinarySize { declared: u64, present: usize },
    #[error("{present} bytes follow the JSON, but no input has binary_data_size")]
    BinaryUnclaimed { present: usize },
    #[error("a raw body needs a model with one input of a known size, model {model} has {inputs} inputs")]
    RawBody { model: Quoted, inputs: usize },
    #[error("raw_input_contents must be given for all inputs: {inputs} inputs, {raw} given")]
    RawCount { inputs: usize, raw: usize },

    #[error("model {model} has no input {input}; it expects: {expects}")]
    UnknownInput { model: Quoted, input: Quoted, expects: Listed },
    #[error("model {model} needs input {input} ({spec})")]
    MissingInput { model: Quoted, input: Quoted, spec: Clipped },
    #[error("model {model} has no output {output}; it has: {has}")]
    UnknownOutput { model: Quoted, output: Quoted, has: Listed },
    #[error("model {0} says nothing of its inputs, which V1 needs; use V2")]
    NoMetadata(Quoted),
    #[error("give either \"instances\" or \"inputs\", not both")]
    InstancesAndInputs,
    #[error("model {model} has several inputs: give an object with {inputs}")]
    NeedsNames { model: Quoted, inputs: Listed },
    #[error("instances[{row}]: missing field {field}")]
    MissingInRow { row: usize, field: Quoted },
    #[error("tensors have no common number of rows ({0}); send \"inputs\" rather than \"instances\"")]
    NoRows(Listed),
}

impl Error {
    /// The class of the error, which decides on status codes.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Syntax { .. } | Self::HeaderCut { .. } | Self::Nesting | Self::DuplicateField(_) => {
                Reason::BadJson
            }
            Self::HeaderLength(_) | Self::HeaderBeyondBody { .. } => Reason::BadHeaderLength,
            Self::TooLarge { .. } => Reason::BodyTooLarge,
            Self::SharedMemory | Self::OpenAiOnly => Reason::Unsupported,
            Self::Tensor { .. }
            | Self::BatchSize(_)
            | Self::BinarySize { .. }
            | Self::BinaryUnclaimed { .. }
            | Self::RawBody { .. }
            | Self::RawCount { .. }
            | Self::EmbeddingCount { .. }
            | Self::EmbeddingIndex(_)
            | Self::UnknownInput { .. }
            | Self::MissingInput { .. }
            | Self::UnknownOutput { .. } => Reason::BadTensor,
            Self::MissingField(_)
            | Self::NotAnObject
            | Self::FieldType { .. }
            | Self::Empty(_)
            | Self::TooMany(_)
            | Self::TooManyInputs { .. }
            | Self::DuplicateInput(_)
            | Self::DuplicateOutput(_)
            | Self::IdTooLong
            | Self::IdControl
            | Self::Parameter { .. }
            | Self::NoMetadata(_)
            | Self::InstancesAndInputs
            | Self::NeedsNames { .. }
            | Self::MissingInRow { .. }
            | Self::NoRows(_) => Reason::BadRequest,
        }
    }
}

/// The class of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    BadRequest,
    BadJson,
    BadTensor,
    BadHeaderLength,
    BodyTooLarge,
    Unsupported,
}

/// Which tensor an error is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Place {
    #[error("input {0}")]
    Input(Quoted),
    #[error("output {0}")]
    Output(Quoted),
    #[error("inputs[{0}]")]
    InputAt(usize),
    #[error("outputs[{0}]")]
    OutputAt(usize),
}

impl Place {
    pub(crate) fn input(name: &str) -> Self {
        Self::Input(Quoted::new(name))
    }

    pub(crate) fn output(name: &str) -> Self {
        Self::Output(Quoted::new(name))
    }

    /// For `map_err`.
    pub(crate) fn error(self) -> impl FnOnce(Problem) -> Error {
        |problem| Error::Tensor { place: self, problem }
    }
}

/// What is wrong with a tensor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    #[error("missing field \"{0}\"")]
    MissingField(&'static str),
    #[error("\"{field}\" must be {expected}")]
    FieldType { field: &'static str, expected: &'static str },
    #[error("datatype {0} is not one of {names}", names = quote::DATATYPES)]
    UnknownDatatype(Quoted),
    #[error("shape[{index}] is {value}; a dimension is 0 to {DIM_MAX}")]
    Dimension { index: usize, value: Clipped },
    #[error("shape has more than {RANK_MAX} dimensions")]
    Rank,
    #[error("shape product overflows")]
    Overflow,
    #[error("shape {shape} needs {needed} values, got {got}", shape = quote::shape(.shape))]
    Count { shape: Vec<u64>, needed: u64, got: usize },
    #[error("data is ragged at {}", quote::path(.0))]
    Ragged(Vec<usize>),
    #[error("value {value} at data[{index}] does not fit {datatype}")]
    Value { value: Clipped, index: usize, datatype: DataType },
    #[error("data[{index}] is {found}, {datatype} takes {takes}", takes = quote::takes(*.datatype))]
    Kind { found: &'static str, index: usize, datatype: DataType },
    #[error("data[{index}] is not valid base64")]
    Base64 { index: usize },
    #[error("{before} and {then} in one tensor")]
    Mixed { before: &'static str, then: &'static str },
    #[error("has {got} rows, others have {expected}")]
    Rows { got: usize, expected: usize },

    #[error("has both \"data\" and \"binary_data_size\"")]
    DataAndBinary,
    #[error("contents and raw_input_contents exclude each other")]
    ContentsAndRaw,
    #[error("{datatype} belongs in {field}")]
    WrongContents { datatype: DataType, field: &'static str },
    #[error("{0} has no typed contents; use raw_input_contents")]
    NoTypedContents(DataType),
    #[error("{present} bytes of data, but {datatype} {shape} takes {needed}", shape = quote::shape(.shape))]
    Size { present: usize, datatype: DataType, shape: Vec<u64>, needed: u64 },
    #[error("BYTES element {index} is cut off: {declared} bytes declared, {left} left")]
    BytesCut { index: usize, declared: usize, left: usize },
    #[error("{left} bytes are left after BYTES element {index}")]
    BytesLeft { index: usize, left: usize },
    #[error("BYTES element {index} is not UTF-8; ask for it with \"binary_data\": true")]
    NotText { index: usize },

    #[error("datatype is {got}, model {model} takes {takes}")]
    Datatype { got: DataType, model: Quoted, takes: DataType },
    #[error("shape {got} does not match {takes} of model {model}", got = quote::shape(.got), takes = quote::dims(.takes))]
    Shape { got: Vec<u64>, takes: Vec<i64>, model: Quoted },
}
