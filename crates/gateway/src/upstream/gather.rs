//! Collects an answer's body under a limit, without copying when it comes in one piece.

use bytes::{Bytes, BytesMut};
use pipeline::CallError;

/// The pieces of one body so far.
#[derive(Debug)]
pub(super) struct Gather {
    limit: usize,
    /// Bytes the sender announced; never more than `limit`.
    announced: usize,
    first: Bytes,
    joined: BytesMut,
}

impl Gather {
    /// Expects at least `announced` bytes and accepts at most `limit`.
    ///
    /// # Errors
    /// [`CallError::TooLarge`] if more is announced than accepted.
    pub(super) fn new(announced: u64, limit: usize) -> Result<Self, CallError> {
        match usize::try_from(announced) {
            Ok(announced) if announced <= limit => {
                Ok(Self { limit, announced, first: Bytes::new(), joined: BytesMut::new() })
            }
            _ => Err(CallError::TooLarge { limit }),
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// [`CallError::TooLarge`] if it does not fit; the body is then of no use.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), CallError> {
        let length = self.len() + piece.len();
        if length > self.limit {
            return Err(CallError::TooLarge { limit: self.limit });
        }
        if self.len() == 0 {
            self.first = piece;
            return Ok(());
        }
        if self.joined.is_empty() {
            self.joined.reserve(self.announced.max(length));
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&piece);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    pub(super) fn finish(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { self.joined.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_one_piece_is_not_copied() {
        let piece = Bytes::from(vec![7; 100]);
        let mut body = Gather::new(0, 100).unwrap();
        body.push(piece.clone()).unwrap();
        assert_eq!(body.finish().as_ptr(), piece.as_ptr());
    }

    #[test]
    fn pieces_are_joined_in_order() {
        let mut body = Gather::new(6, 6).unwrap();
        for piece in ["ab", "", "cd", "ef"] {
            body.push(Bytes::from_static(piece.as_bytes())).unwrap();
        }
        assert_eq!(body.finish(), "abcdef");
    }

    #[test]
    fn an_announced_excess_is_refused_before_anything_is_kept() {
        assert_eq!(Gather::new(11, 10).err(), Some(CallError::TooLarge { limit: 10 }));
        assert_eq!(Gather::new(u64::MAX, 10).err(), Some(CallError::TooLarge { limit: 10 }));
    }

    #[test]
    fn an_unannounced_excess_is_refused_as_it_arrives() {
        let mut body = Gather::new(0, 3).unwrap();
        body.push(Bytes::from_static(b"abc")).unwrap();
        assert_eq!(body.push(Bytes::from_static(b"d")), Err(CallError::TooLarge { limit: 3 }));
    }
}
