//! How large a prompt is, before a tokenizer has seen it.

use std::ops::Range;

use crate::{
    error::Error,
    json::{Kind, Reader},
};

/// Bytes of prompt that are taken for one token: what English prose in JSON comes to. Other scripts and lists of
/// token ids are off by up to a factor of two, in either direction.
const BYTES_PER_TOKEN: usize = 4;
/// What an attached file counts as: an image becomes about a thousand tokens, however many bytes it has.
const ATTACHMENT_BYTES: usize = 4096;
/// Bytes at the start of a long string that tell base64 from text.
const SAMPLE_BYTES: usize = 256;

/// A prompt in a body.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Prompt {
    /// Where the raw value stands.
    pub(super) at: Range<usize>,
    /// Bytes of it that are not text.
    attached: usize,
}

impl Prompt {
    /// Reads past the value of the member that holds the prompt.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let start = reader.start();
        let attached = attached(reader)?;
        Ok(Self { at: start..reader.position(), attached })
    }

    /// A quarter of its bytes, in which an attached file counts as 4 KiB.
    pub(super) fn tokens(&self) -> u32 {
        let text = self.at.len() - self.attached;
        u32::try_from(text.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX)
    }
}

/// Reads past a value; gives the bytes in it by which attached files exceed what they count as.
fn attached(reader: &mut Reader<'_>) -> Result<usize, Error> {
    let mut bytes = 0;
    match reader.kind()? {
        Kind::Array => {
            reader.array(|reader, _| {
                bytes += attached(reader)?;
                Ok(())
            })?;
        }
        Kind::Object => reader.object(|reader, _| {
            bytes += attached(reader)?;
            Ok(())
        })?,
        Kind::String => {
            let at = reader.skip_range()?;
            if at.len() > ATTACHMENT_BYTES && is_file(reader.raw(at.clone()).as_bytes()) {
                bytes = at.len() - ATTACHMENT_BYTES;
            }
        }
        _ => reader.skip()?,
    }
    Ok(bytes)
}

/// Whether a long string, in its quotes, is a data URL or base64.
fn is_file(quoted: &[u8]) -> bool {
    let text = quoted.get(1..).unwrap_or_default();
    let mut sample = text.iter().take(SAMPLE_BYTES);
    text.starts_with(b"data:")
        || sample.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'))
}
