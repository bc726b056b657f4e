//! The gRPC frame: a flag, a four-byte length, one message; in and out without copying tensors.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use pipeline::CallError;
use prost::{Message, encode_length_delimiter, length_delimiter_len};
use proto::inference::ModelInferRequest;

use super::gather::Gather;

/// Length of a frame's head.
const HEAD: usize = 5;
/// Messages up to this size are copied into one buffer: a second DATA frame would cost more.
const COPY_MAX: usize = 16 << 10;
/// Key of `raw_input_contents`, the message's last field: number 7, length-delimited.
const RAW_INPUTS: u8 = 7 << 3 | 2;

/// One framed message, in pieces. There is at least one piece.
pub(super) type Pieces = Vec<Bytes>;

/// Frames a message that is already encoded; `None` if its length does not fit the head.
pub(super) fn encoded(message: Bytes) -> Option<Pieces> {
    let mut head = head(message.len())?;
    if message.len() <= COPY_MAX {
        head.put(message);
        return Some(vec![head.freeze()]);
    }
    Some(vec![head.freeze(), message])
}

/// Encodes and frames a message.
pub(super) fn message(message: &impl Message) -> Option<Pieces> {
    let mut frame = head(message.encoded_len())?;
    message.encode(&mut frame).ok()?;
    Some(vec![frame.freeze()])
}

/// Encodes and frames an inference call; large raw tensors become pieces of their own.
pub(super) fn infer(mut request: ModelInferRequest) -> Option<Pieces> {
    if request.encoded_len() <= COPY_MAX {
        return message(&request);
    }
    let raw = std::mem::take(&mut request.raw_input_contents);
    let rest = request.encoded_len();
    let raw_length: usize = raw.iter().map(|tensor| field_length(tensor.len())).sum();
    let mut piece = head_of(rest + raw_length, rest)?;
    request.encode(&mut piece).ok()?;
    let mut pieces = Pieces::with_capacity(2 * raw.len() + 1);
    for tensor in raw {
        piece.put_u8(RAW_INPUTS);
        encode_length_delimiter(tensor.len(), &mut piece).ok()?;
        pieces.extend([std::mem::take(&mut piece).freeze(), tensor]);
    }
    if !piece.is_empty() {
        pieces.push(piece.freeze());
    }
    pieces.retain(|piece| !piece.is_empty());
    Some(pieces)
}

fn field_length(payload: usize) -> usize {
    size_of_val(&RAW_INPUTS) + length_delimiter_len(payload) + payload
}

fn head(length: usize) -> Option<BytesMut> {
    head_of(length, length.min(COPY_MAX))
}

/// The head for a message of `length` bytes, with room for `room` more.
fn head_of(length: usize, room: usize) -> Option<BytesMut> {
    let length = u32::try_from(length).ok()?;
    let mut head = BytesMut::with_capacity(HEAD + room);
    head.put_u8(0);
    head.put_u32(length);
    Some(head)
}

/// Takes one frame apart as it arrives.
#[derive(Debug)]
pub(super) struct Reader {
    limit: usize,
    head: BytesMut,
    message: Option<(usize, Gather)>,
}

impl Reader {
    /// Accepts one message of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, head: BytesMut::new(), message: None }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`CallError::TooLarge`] as soon as the head announces too much; [`CallError::BadResponse`] for a
    /// compressed message (none was asked for) and for bytes after it.
    pub(super) fn push(&mut self, mut chunk: Bytes) -> Result<(), CallError> {
        if self.message.is_none() {
            self.take_head(&mut chunk)?;
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let (length, message) = self.message.as_mut().ok_or(CallError::BadResponse)?;
        if message.len() + chunk.len() > *length {
            return Err(CallError::BadResponse);
        }
        message.push(chunk)
    }

    fn take_head(&mut self, chunk: &mut Bytes) -> Result<(), CallError> {
        let missing = HEAD - self.head.len();
        self.head.put(chunk.split_to(missing.min(chunk.len())));
        if self.head.len() < HEAD {
            return Ok(());
        }
        if self.head.get_u8() != 0 {
            return Err(CallError::BadResponse);
        }
        let length = self.head.get_u32();
        let message = Gather::new(u64::from(length), self.limit)?;
        self.message = Some((length as usize, message));
        Ok(())
    }

    /// The message, if all of it has come; `None` if nothing has.
    ///
    /// # Errors
    /// [`CallError::BadResponse`] if it is cut short.
    pub(super) fn finish(self) -> Result<Option<Bytes>, CallError> {
        match self.message {
            Some((length, message)) if message.len() == length => Ok(Some(message.finish())),
            None if self.head.is_empty() => Ok(None),
            _ => Err(CallError::BadResponse),
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::inference::model_infer_request::InferInputTensor;

    use super::*;

    fn read(chunks: &[&[u8]], limit: usize) -> Result<Option<Bytes>, CallError> {
        let mut reader = Reader::new(limit);
        for chunk in chunks {
            reader.push(Bytes::copy_from_slice(chunk))?;
        }
        reader.finish()
    }

    fn joined(pieces: &[Bytes]) -> Vec<u8> {
        pieces.concat()
    }

    #[test]
    fn a_frame_is_read_however_it_is_cut() {
        let frame = b"\0\0\0\0\x03abc";
        for cut in 0..frame.len() {
            let (a, b) = frame.split_at(cut);
            assert_eq!(read(&[a, b], 3), Ok(Some(Bytes::from_static(b"abc"))), "cut at {cut}");
        }
        assert_eq!(read(&[], 3), Ok(None));
        assert_eq!(read(&[b"\0\0\0\0\0"], 3), Ok(Some(Bytes::new())));
    }

    #[test]
    fn bad_frames_are_told_apart() {
        assert_eq!(read(&[b"\0\0\0"], 9), Err(CallError::BadResponse), "cut in the head");
        assert_eq!(read(&[b"\0\0\0\0\x03ab"], 9), Err(CallError::BadResponse), "cut in the message");
        assert_eq!(read(&[b"\0\0\0\0\x01ab"], 9), Err(CallError::BadResponse), "bytes after the message");
        assert_eq!(read(&[b"\x01\0\0\0\x01a"], 9), Err(CallError::BadResponse), "compressed");
        assert_eq!(read(&[b"\0\xff\xff\xff\xff"], 9), Err(CallError::TooLarge { limit: 9 }));
    }

    #[test]
    fn a_message_in_one_chunk_is_not_copied() {
        let frame = Bytes::from_static(b"\0\0\0\0\x03abc");
        let mut reader = Reader::new(3);
        reader.push(frame.clone()).unwrap();
        assert_eq!(reader.finish().unwrap().unwrap().as_ptr(), frame[5..].as_ptr());
    }

    #[test]
    fn large_tensors_are_sent_in_place_and_decode_to_the_same_message() {
        for sizes in [vec![], vec![3], vec![COPY_MAX], vec![COPY_MAX, 0, 100_000]] {
            let tensors: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect();
            let request = ModelInferRequest {
                model_name: "m".into(),
                inputs: vec![InferInputTensor { name: "x".into(), ..Default::default() }],
                raw_input_contents: tensors.clone(),
                ..Default::default()
            };
            let pieces = infer(request.clone()).unwrap();
            let bytes = read(&[&joined(&pieces)], 1 << 20).unwrap().unwrap();
            assert_eq!(ModelInferRequest::decode(bytes).unwrap(), request);
            let last = tensors.last().filter(|tensor| tensor.len() >= COPY_MAX);
            assert!(last.is_none_or(|tensor| pieces.last().unwrap().as_ptr() == tensor.as_ptr()));
        }
    }

    #[test]
    fn an_encoded_message_is_framed_with_and_without_copying() {
        for size in [0, 10, COPY_MAX + 1] {
            let message = Bytes::from(vec![1; size]);
            let pieces = encoded(message.clone()).unwrap();
            assert_eq!(read(&[&joined(&pieces)], 1 << 20), Ok(Some(message)));
        }
    }
}
