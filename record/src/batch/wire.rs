//! Bytes of a batch: a growing buffer to write, a shrinking slice to read. Every length is checked before it is used.

use super::BatchError;

/// Appends a number in LEB128: 7 bits a byte, least significant first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// How many bytes [`put_varint`] takes.
pub(super) fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Signed as unsigned with small absolute values small.
pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

/// What is left to read. `part` names it in errors.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    part: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], part: &'static str) -> Reader<'a> {
        Reader { bytes, part }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(BatchError::Truncated(self.part))?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], BatchError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(BatchError::Truncated(self.part))?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, BatchError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn varint(&mut self) -> Result<u64, BatchError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BatchError::Truncated(self.part))
    }

    /// A varint that counts things, none of which may be more than `bound`.
    pub(super) fn count(&mut self, what: &'static str, bound: usize) -> Result<usize, BatchError> {
        let claimed = self.varint()?;
        match usize::try_from(claimed) {
            Ok(count) if count <= bound => Ok(count),
            _ => Err(BatchError::Oversized { what, claimed, bound: bound as u64 }),
        }
    }

    /// A length and so many bytes.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], BatchError> {
        let len = self.count("a length of", self.bytes.len())?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_survive(number: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, number);
            prop_assert_eq!(out.len(), varint_len(number));
            prop_assert_eq!(Reader::new(&out, "test").varint(), Ok(number));
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }
}
