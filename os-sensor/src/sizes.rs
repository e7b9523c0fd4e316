//! How large the packets are of which the kernel dropped some: it tells how many, and not their bytes.

/// Packets of the last while.
#[derive(Default)]
pub(crate) struct Sizes {
    bytes: u64,
    squares: u64,
}

impl Sizes {
    /// A packet passed.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.squares = self.squares.saturating_add(bytes * bytes);
    }

    /// The size of the packet that a byte of the while since the call before belongs to. A ring without room drops large
    /// segments rather than the acknowledgements between them, so that the plain mean would say too little.
    pub(crate) fn take(&mut self) -> u64 {
        let Sizes { bytes, squares } = std::mem::take(self);
        squares / bytes.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_segments_count_and_acknowledgements_between_them_hardly() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.take(), 0);
        (0..1_000).for_each(|_| sizes.add(1_000));
        assert_eq!(sizes.take(), 1_000);
        (0..1_000).for_each(|_| [65_226, 66].into_iter().for_each(|bytes| sizes.add(bytes)));
        assert!((64_000..=65_226).contains(&sizes.take()));
        assert_eq!(sizes.take(), 0, "a while is forgotten");
    }
}
