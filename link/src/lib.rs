//! link
#![deny(unsafe_code)]
