//! Packets of this host's interfaces, both directions. Each system has the same shape: a `Ring` with `open`, `filter`,
//! `is_filtering`, `drain` and `drops`, `wait` for several of them, and `cure`, what to do about an error of `open`.

#[cfg(target_os = "linux")]
mod linux;
/// Packet Monitor's stream, as bytes.
#[cfg(any(windows, test))]
mod stream;
#[cfg(windows)]
pub(crate) mod windows;

#[cfg(target_os = "linux")]
pub use linux::{Ring, cure, wait};
#[cfg(windows)]
pub use windows::{Ring, cure, wait};

use thymus_dissect::Frame;

/// Who takes what was captured.
pub trait Taker {
    /// Frames follow that were all captured before this call.
    fn begin(&mut self);

    /// A frame.
    fn take(&mut self, frame: &Frame<'_>);
}

/// The name now of the interface that was opened by this one; `None` when it is gone.
#[cfg(target_os = "linux")]
pub fn name_now(ring: &Ring, _opened: &str) -> Option<String> {
    ring.name()
}

/// Adapters are found by their names here, so that one with another name is another adapter.
#[cfg(windows)]
pub fn name_now(_ring: &Ring, opened: &str) -> Option<String> {
    Some(opened.to_owned())
}
