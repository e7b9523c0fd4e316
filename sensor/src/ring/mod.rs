//! The rolling capture.
