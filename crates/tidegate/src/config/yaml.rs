//! YAML as a tree whose every node knows where it stands.
//!
//! Scalars stay text as written, so that a reader decides by what it expects and not by how `on`, `010` or `1_0`
//! happen to resolve. Depth and the weight of the tree, aliases expanded, are bounded.

mod write;

use std::{borrow::Cow, collections::HashMap};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StrInput};

pub(crate) use write::write;

const DEPTH_MAX: usize = 32;
/// Bytes of text plus [`NODE_WEIGHT`] per node: far above any honest file of the size that is read.
const WEIGHT_MAX: usize = 16 << 20;
const NODE_WEIGHT: usize = 64;

/// Where something stands: line and column from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// Characters to underline, at least 1; what goes on in the next line is left out.
    pub(crate) width: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) quoted: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

/// Why a text is no tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

impl Span {
    pub(crate) const START: Self = Self { line: 1, column: 1, width: 1 };
    /// In a tree that was not read from a text.
    pub(crate) const NOWHERE: Self = Self { line: 0, column: 0, width: 0 };

    /// Its line, as a sentence mentions it; nothing where there are no lines.
    pub(crate) fn mention(self) -> String {
        if self == Self::NOWHERE { String::new() } else { format!(" (line {})", self.line) }
    }

    fn point(mark: &granit_parser::Marker) -> Self {
        Self { line: mark.line().max(1), column: mark.col() + 1, width: 1 }
    }

    fn of(span: &granit_parser::Span) -> Self {
        let (start, end) = (&span.start, &span.end);
        let width = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { 1 };
        Self { width: width.max(1), ..Self::point(start) }
    }
}

impl Node {
    /// Whether nothing is written here, or a word for nothing.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(s) if !s.quoted && matches!(s.text.as_str(), "" | "~" | "null"))
    }

    fn weight(&self) -> usize {
        NODE_WEIGHT
            + match &self.value {
                Value::Scalar(scalar) => scalar.text.len(),
                Value::List(items) => items.iter().map(Node::weight).sum(),
                Value::Map(entries) => entries.iter().map(|e| e.key.len() + e.value.weight()).sum(),
            }
    }
}

/// The tree of the one document in `text`; `None` if there is nothing in it.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, Broken> {
    let options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        emit_comments: false,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    Builder { parser, anchors: HashMap::new(), weight: 0 }.document()
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    weight: usize,
}

impl<'t> Builder<'t> {
    fn document(mut self) -> Result<Option<Node>, Broken> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(broken(
                        Span::of(&span),
                        "a second document begins here",
                        "one file, one document",
                    ));
                }
                Event::DocumentStart(..) => {
                    let (event, span) = self.next()?;
                    let node = self.node(event, Span::of(&span))?;
                    root = (!node.is_null()).then_some(node);
                }
                _ => return Err(broken(Span::of(&span), "unexpected content", "")),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, granit_parser::Span), Broken> {
        match self.parser.next_event() {
            Some(next) => next.map_err(|error| not_yaml(&error)),
            None => Err(broken(Span::START, "the document ends in the middle", "")),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, Broken> {
        if event.tag().is_some() {
            return Err(broken(span, "tags (\"!…\") have no meaning here", "remove the tag"));
        }
        let anchor = event.anchor_id();
        let value = match event {
            Event::Scalar(text, style, ..) => self.scalar(text, style, span)?,
            Event::SequenceStart(..) => Value::List(self.list(span)?),
            Event::MappingStart(..) => Value::Map(self.map(span)?),
            Event::Alias(id) => self.anchored(id, span)?,
            _ => return Err(broken(span, "a value is missing", "")),
        };
        let node = Node { span, value };
        if let Some(id) = anchor {
            self.charge(node.weight(), span)?;
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn scalar(&mut self, text: Cow<'t, str>, style: ScalarStyle, span: Span) -> Result<Value, Broken> {
        self.charge(NODE_WEIGHT + text.len(), span)?;
        Ok(Value::Scalar(Scalar { text: text.into_owned(), quoted: style != ScalarStyle::Plain }))
    }

    fn list(&mut self, span: Span) -> Result<Vec<Node>, Broken> {
        self.charge(NODE_WEIGHT, span)?;
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, Span::of(&span))?),
            }
        }
    }

    fn map(&mut self, span: Span) -> Result<Vec<Entry>, Broken> {
        self.charge(NODE_WEIGHT, span)?;
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key_span = Span::of(&span);
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, _, _, None) => text.into_owned(),
                _ => return Err(broken(key_span, "a key must be a plain word", "")),
            };
            self.charge(key.len(), key_span)?;
            let (event, span) = self.next()?;
            let mut value = self.node(event, Span::of(&span))?;
            if value.is_null() {
                // An empty value has no place of its own.
                value.span = key_span;
            }
            entries.push(Entry { key, key_span, value });
        }
    }

    /// What an alias stands for. Located at the alias: its text is what the user has to look at first.
    fn anchored(&mut self, id: usize, span: Span) -> Result<Value, Broken> {
        let Some(node) = self.anchors.get(&id) else {
            return Err(broken(span, "an alias inside its own anchor", "write the value out"));
        };
        let weight = node.weight();
        let value = node.value.clone();
        self.charge(weight, span)?;
        Ok(value)
    }

    fn charge(&mut self, weight: usize, span: Span) -> Result<(), Broken> {
        self.weight += weight;
        if self.weight > WEIGHT_MAX {
            return Err(broken(
                span,
                "too much content, aliases expanded",
                "write the values out, or use fewer",
            ));
        }
        Ok(())
    }
}

fn broken(span: Span, message: &str, hint: &'static str) -> Broken {
    Broken { span, message: message.to_owned(), hint }
}

fn not_yaml(error: &ScanError) -> Broken {
    let span = Span::point(error.marker());
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => broken(span, "a tab cannot indent", "use spaces"),
        ErrorKind::RecursionLimitExceeded => broken(span, "nested more than 32 deep", ""),
        ErrorKind::UnknownAnchor => broken(
            span,
            "an alias (\"*name\") without an anchor (\"&name\")",
            "quote a text that begins with *",
        ),
        kind => Broken { span, message: format!("not valid YAML: {kind}"), hint: "" },
    }
}
