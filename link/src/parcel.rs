//! Captured frames put together on their way to a vSensor: see [`crate::agent`] for the layout.

use std::sync::{Arc, Mutex, PoisonError};
use thymus_record::Time;
use thymus_record::ledger::Count;

/// Bytes in front of each frame in a parcel.
pub const FRAME_HEAD: usize = 17;

/// Room of a parcel: what it is handed over at, and a frame on top that is larger than most.
const ROOM: usize = 128 << 10;
/// Empty parcels kept.
const SPARES_MAX: usize = 32;

/// Empty parcels that were delivered, with their memory: fresh memory costs more than the copy into it.
#[derive(Clone, Default, Debug)]
pub struct Spares(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spares {
    /// An empty parcel with room.
    pub fn take(&self) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// A parcel that is no longer needed.
    pub fn give(&self, mut parcel: Vec<u8>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARES_MAX && parcel.capacity() <= 2 * ROOM {
            parcel.clear();
            spares.push(parcel);
        }
    }
}

/// What stands in front of a captured frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHead {
    /// When it was captured.
    pub time: Time,
    /// Its length on the wire.
    pub wire_len: u32,
    /// Others may send it too.
    pub shared: bool,
    /// It was left to another one, and is sent after all.
    pub again: bool,
}

/// Adds a frame to a parcel.
pub fn put_frame(parcel: &mut Vec<u8>, head: &FrameHead, bytes: &[u8]) {
    parcel.extend_from_slice(&head.time.0.to_le_bytes());
    parcel.extend_from_slice(&head.wire_len.to_le_bytes());
    parcel.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    parcel.push(u8::from(head.shared) | u8::from(head.again) << 1);
    parcel.extend_from_slice(bytes);
}

/// Takes the next frame off a parcel; `None` at its end, and where it is damaged.
pub fn take_frame<'a>(parcel: &mut &'a [u8]) -> Option<(FrameHead, &'a [u8])> {
    let (head, rest) = parcel.split_first_chunk::<FRAME_HEAD>()?;
    let (time, more) = head.split_first_chunk::<8>()?;
    let (wire_len, more) = more.split_first_chunk::<4>()?;
    let (len, flags) = more.split_first_chunk::<4>()?;
    let bytes = rest.get(..u32::from_le_bytes(*len) as usize)?;
    *parcel = rest.get(bytes.len()..)?;
    let flags = flags.first().copied().unwrap_or_default();
    let (time, wire_len) = (Time(u64::from_le_bytes(*time)), u32::from_le_bytes(*wire_len));
    Some((FrameHead { time, wire_len, shared: flags & 1 != 0, again: flags & 2 != 0 }, bytes))
}

/// The frames of a parcel.
pub fn count_frames(mut parcel: &[u8]) -> Count {
    let mut count = Count::default();
    while let Some((head, _)) = take_frame(&mut parcel) {
        count.add(u64::from(head.wire_len));
    }
    count
}
