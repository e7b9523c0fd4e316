//! A parcel being filled, and what is in it.

use thymus_link::agent::{FrameHead, Spares, put_frame};
use thymus_record::ledger::Count;
use thymus_record::message::Passed;

/// Frames put together on their way to the vSensor.
#[derive(Default)]
pub(crate) struct Parcel {
    /// As they go out.
    pub(crate) bytes: Vec<u8>,
    /// How many, and their bytes on the wire.
    pub(crate) frames: Count,
    /// What counts of them between witnesses.
    pub(crate) passed: Passed,
    /// Where its memory comes from.
    pub(crate) spares: Spares,
}

impl Parcel {
    /// Adds a frame. A parcel has all its room from the beginning: growing, it would be copied over and over.
    pub(crate) fn put(&mut self, head: &FrameHead, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = self.spares.take();
        }
        put_frame(&mut self.bytes, head, bytes);
    }

    /// Takes what is in it; it is empty then.
    pub(crate) fn take(&mut self) -> (Vec<u8>, Count, Passed) {
        let Parcel { bytes, frames, passed, .. } = self;
        (std::mem::take(bytes), std::mem::take(frames), std::mem::take(passed))
    }
}
