//! store
#![deny(unsafe_code)]
