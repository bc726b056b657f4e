//! How a client wants its answer written, learned from its request.

use std::collections::BTreeMap;

/// How a client wants its answer written. Each encoder reads its own part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mirror {
    pub(crate) layout: Layout,
    pub(crate) contents: Contents,
    pub(crate) default_encoding: TensorEncoding,
    /// Outputs for which the request said `binary_data`; at most as many as it may request.
    pub(crate) encodings: BTreeMap<String, TensorEncoding>,
}

/// Of a V1 answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `predictions`, for a request with `instances`.
    #[default]
    Rows,
    /// `outputs`, for a request with `inputs`.
    Columns,
}

/// Of a gRPC answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Contents {
    #[default]
    Raw,
    Typed,
}

/// Of an output in a V2 REST answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TensorEncoding {
    #[default]
    Json,
    Binary,
}

impl Mirror {
    /// V2 REST with JSON outputs, gRPC with raw contents, V1 in rows: what a client gets that asks for nothing.
    #[must_use]
    pub fn plain() -> Self {
        Self::default()
    }

    /// V2 REST with every output in binary.
    #[must_use]
    pub fn binary() -> Self {
        Self { default_encoding: TensorEncoding::Binary, ..Self::default() }
    }

    /// gRPC with typed contents.
    #[must_use]
    pub fn typed() -> Self {
        Self { contents: Contents::Typed, ..Self::default() }
    }

    /// V1 in columns.
    #[must_use]
    pub fn columns() -> Self {
        Self { layout: Layout::Columns, ..Self::default() }
    }

    pub(crate) fn encoding(&self, output: &str) -> TensorEncoding {
        self.encodings.get(output).copied().unwrap_or(self.default_encoding)
    }
}
