//! Benches, one a stage, in stage order.
