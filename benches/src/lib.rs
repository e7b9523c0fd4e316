//! Benches, one a stage, in stage order, and what they share.

/// A counting allocator.
pub mod allocations;
/// Frames to work on.
pub mod traffic;
