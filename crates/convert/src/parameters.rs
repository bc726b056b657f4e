//! Parameters of requests and tensors: the ones the gateway itself understands, and the rest.

use std::time::Duration;

use pipeline::{
    request::Class,
    tensor::{Parameter, Parameters},
};

use crate::{
    error::Error,
    json::{self, Kind, Object, Reader},
    quote::Quoted,
};

const PRIORITY: &str = "priority";
const TIMEOUT: &str = "timeout";
const SHARED_MEMORY: &str = "shared_memory_";

/// What the gateway does with a request rather than hand it on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reserved {
    pub(crate) class: Option<Class>,
    pub(crate) timeout: Option<Duration>,
}

impl Reserved {
    /// Takes `priority` and `timeout` out of a request's parameters, and checks those of sequences.
    pub(crate) fn take(parameters: &mut Parameters) -> Result<Self, Error> {
        for (name, parameter) in &*parameters {
            match (name.as_str(), parameter) {
                ("sequence_id", Parameter::Int(_) | Parameter::Uint(_) | Parameter::String(_))
                | ("sequence_start" | "sequence_end", Parameter::Bool(_)) => {}
                ("sequence_id", _) => return Err(wrong(name, "a whole number or a string")),
                ("sequence_start" | "sequence_end", _) => return Err(wrong(name, "true or false")),
                _ => {}
            }
        }
        let class = parameters.remove(PRIORITY).map(|value| class(&value)).transpose()?.flatten();
        let timeout = parameters.remove(TIMEOUT).map(|value| timeout(&value)).transpose()?.flatten();
        Ok(Self { class, timeout })
    }
}

/// 1 is the highest priority, 0 the model's default, as in Triton; what lies below the lowest class is of it.
fn class(value: &Parameter) -> Result<Option<Class>, Error> {
    match natural(value).ok_or_else(|| wrong(PRIORITY, "a whole number from 0"))? {
        0 => Ok(None),
        1 => Ok(Some(Class::High)),
        2 => Ok(Some(Class::Normal)),
        _ => Ok(Some(Class::Low)),
    }
}

/// In microseconds; 0 is none.
fn timeout(value: &Parameter) -> Result<Option<Duration>, Error> {
    let micros = natural(value).ok_or_else(|| wrong(TIMEOUT, "a whole number of microseconds"))?;
    Ok((micros > 0).then(|| Duration::from_micros(micros)))
}

fn natural(value: &Parameter) -> Option<u64> {
    match *value {
        Parameter::Uint(value) => Some(value),
        Parameter::Int(value) => u64::try_from(value).ok(),
        _ => None,
    }
}

/// Takes a flag out of the parameters.
pub(crate) fn take_bool(parameters: &mut Parameters, name: &str) -> Result<Option<bool>, Error> {
    match parameters.remove(name) {
        None => Ok(None),
        Some(Parameter::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(wrong(name, "true or false")),
    }
}

/// Takes a size in bytes out of the parameters.
pub(crate) fn take_size(parameters: &mut Parameters, name: &str) -> Result<Option<u64>, Error> {
    parameters
        .remove(name)
        .map(|value| natural(&value).ok_or_else(|| wrong(name, "a whole number of bytes")))
        .transpose()
}

/// That no tensor lies in memory which only its client and one server share.
pub(crate) fn refuse_shared_memory(parameters: &Parameters) -> Result<(), Error> {
    let shared = parameters.keys().any(|name| name.starts_with(SHARED_MEMORY));
    if shared { Err(Error::SharedMemory) } else { Ok(()) }
}

/// Reads an object of parameters; one that is `null` is as good as absent.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Parameters, Error> {
    let mut parameters = Parameters::new();
    match reader.kind()? {
        Kind::Null => reader.literal(Kind::Null)?,
        Kind::Object => reader.object(|reader, name| {
            let Some(value) = read_one(reader, &name)? else { return Ok(()) };
            match parameters.insert(name.clone().into_owned(), value) {
                Some(_) => Err(Error::DuplicateField(Quoted::new(&name))),
                None => Ok(()),
            }
        })?,
        _ => return Err(Error::FieldType { field: "parameters", expected: "an object" }),
    }
    Ok(parameters)
}

fn read_one(reader: &mut Reader<'_>, name: &str) -> Result<Option<Parameter>, Error> {
    const EXPECTED: &str = "a string, a number or a boolean";
    match reader.kind()? {
        Kind::String => Ok(Some(Parameter::String(reader.string()?.into_owned()))),
        Kind::Number => number(reader.number()?.text).map(Some).ok_or_else(|| wrong(name, EXPECTED)),
        Kind::Array | Kind::Object => Err(wrong(name, EXPECTED)),
        kind => {
            reader.literal(kind)?;
            Ok((kind != Kind::Null).then_some(Parameter::Bool(kind == Kind::True)))
        }
    }
}

fn number(token: &str) -> Option<Parameter> {
    if let Ok(value) = token.parse() {
        return Some(Parameter::Int(value));
    }
    if let Ok(value) = token.parse() {
        return Some(Parameter::Uint(value));
    }
    token.parse().ok().filter(|value: &f64| value.is_finite()).map(Parameter::Double)
}

/// Writes parameters as an object.
pub(crate) fn write<'a>(
    out: &mut Vec<u8>,
    parameters: impl IntoIterator<Item = (&'a String, &'a Parameter)>,
) {
    let mut object = Object::open(out);
    for (name, parameter) in parameters {
        write_one(object.key(name), parameter);
    }
    object.close();
}

pub(crate) fn write_one(out: &mut Vec<u8>, parameter: &Parameter) {
    match parameter {
        Parameter::Bool(value) => json::value(out, value),
        Parameter::Int(value) => json::value(out, value),
        Parameter::Uint(value) => json::value(out, value),
        Parameter::Double(value) => json::value(out, value),
        Parameter::String(value) => json::value(out, value),
    }
}

pub(crate) fn wrong(name: &str, expected: &'static str) -> Error {
    Error::Parameter { name: Quoted::new(name), expected }
}
