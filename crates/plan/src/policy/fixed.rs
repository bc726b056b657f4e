//! As many replicas all the time.

use std::time::Duration;

use super::{Policy, Seen};

#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub u32);

impl Policy for Fixed {
    fn decide(&mut self, _: &Seen<'_>, _: Duration) -> Option<u32> {
        None
    }

    fn initial(&self, _: u32) -> u32 {
        self.0
    }
}
