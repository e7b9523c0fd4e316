//! Decoding, layer by layer.
