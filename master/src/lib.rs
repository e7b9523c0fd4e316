//! master
#![deny(unsafe_code)]
