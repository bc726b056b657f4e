//! What the gateway must know of a body that it hands on as it came.

use std::time::Duration;

use pipeline::request::Class;

use crate::{
    error::Error,
    json::{Kind, Reader},
    parameters::{self, Reserved},
};

/// The parts of a request that concern the gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peek {
    pub id: Option<String>,
    /// The `priority` parameter.
    pub class: Option<Class>,
    /// The `timeout` parameter.
    pub timeout: Option<Duration>,
}

/// Looks for `id`, `priority` and `timeout` at the top of a V2 body, binary tensors after it or not, at the
/// speed at which its data can be skipped. What cannot be read is left for the model server to refuse.
#[must_use]
pub fn peek(body: &[u8]) -> Peek {
    let mut peek = Peek::default();
    let mut reader = Reader::of_prefix(body);
    // A body that is broken somewhere has told what it told before.
    let _ = reader.object(|reader, key| match (&*key, reader.kind()?) {
        ("id", Kind::String) => {
            peek.id = super::parse::check_id(&reader.string()?).ok();
            Ok(())
        }
        ("parameters", Kind::Object) => peek.parameters(reader),
        (_, Kind::Array) => reader.skip_array().map(drop),
        _ => reader.skip(),
    });
    peek
}

impl Peek {
    fn parameters(&mut self, reader: &mut Reader<'_>) -> Result<(), Error> {
        let Reserved { class, timeout } = Reserved::take(&mut parameters::read(reader)?)?;
        (self.class, self.timeout) = (class, timeout);
        Ok(())
    }
}
