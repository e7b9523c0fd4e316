//! Certificates told so far: a row each, once a fingerprint and run. Bounded; a forgotten one is told again.

use std::collections::HashSet;
use thymus_record::Record;

/// Fingerprints remembered.
const KNOWN_MAX: usize = 65_536;

/// The fingerprints.
#[derive(Default)]
pub struct Certificates(HashSet<String>);

impl Certificates {
    /// True if the record is a certificate that was told before.
    pub fn is_known(&mut self, record: &Record) -> bool {
        let Record::Cert(row) = record else { return false };
        if self.0.len() >= KNOWN_MAX {
            self.0.clear();
        }
        !self.0.insert(row.fingerprint.clone())
    }
}
