//! A slot's index: hashes of the flows whose packets it holds, one a flow and not one a packet. Where they are too many
//! for their place, a Bloom filter stands for them, so that the index never passes 1.5 % of the slot.
//!
//! ```text
//! index = "TIX1" | kind u32 (1 list, 2 Bloom) | segment u64 | count u32 (entries, or bytes) | crc32c u32 of the data | data
//! list  = sorted u32 hashes       Bloom = bits, 4 a flow
//! ```

use super::layout::{u32_at, u64_at};
use super::superblock::INDEX_BYTES;

const MAGIC: u32 = u32::from_le_bytes(*b"TIX1");
const HEAD: usize = 24;
const LIST: u32 = 1;
const BLOOM: u32 = 2;
const DATA_MAX: usize = INDEX_BYTES - HEAD;
const PROBES: u64 = 4;

/// The index of these flows, ready to be written.
pub(crate) fn encode(segment: u64, flows: &mut Vec<u64>) -> Vec<u8> {
    flows.sort_unstable();
    flows.dedup();
    let mut data = Vec::with_capacity(flows.len() * 4);
    let kind = if flows.len() * 4 <= DATA_MAX {
        let mut hashes: Vec<u32> = flows.iter().map(|hash| short(*hash)).collect();
        hashes.sort_unstable();
        hashes.iter().for_each(|hash| data.extend_from_slice(&hash.to_le_bytes()));
        LIST
    } else {
        data.resize(DATA_MAX, 0);
        for hash in flows.iter() {
            for bit in bits(*hash, DATA_MAX) {
                if let Some(byte) = data.get_mut(bit / 8) {
                    *byte |= 1 << (bit % 8);
                }
            }
        }
        BLOOM
    };
    let count = if kind == LIST { data.len() / 4 } else { data.len() };
    let mut out = Vec::with_capacity(HEAD + data.len());
    for word in [MAGIC, kind] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&segment.to_le_bytes());
    out.extend_from_slice(&u32::try_from(count).unwrap_or_default().to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&data).to_le_bytes());
    out.extend_from_slice(&data);
    out
}

fn short(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or_default()
}

fn bits(hash: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let (first, step) = (hash, (hash >> 17) | 1);
    let total = bytes as u64 * 8;
    (0..PROBES)
        .map(move |probe| usize::try_from(first.wrapping_add(probe.wrapping_mul(step)) % total).unwrap_or_default())
}

/// True if the slot may hold the flow: an index that is missing, torn or of another segment never hides a packet.
pub(crate) fn may_hold(index: &[u8], segment: u64, hash: u64) -> bool {
    let checked = || {
        let (magic, kind, own) = (u32_at(index, 0)?, u32_at(index, 4)?, u64_at(index, 8)?);
        let (count, crc) = (u32_at(index, 16)? as usize, u32_at(index, 20)?);
        let length = if kind == LIST { count.checked_mul(4)? } else { count };
        let data = index.get(HEAD..)?.get(..length)?;
        (magic == MAGIC && own == segment && crc32c::crc32c(data) == crc).then_some((kind, data))
    };
    match checked() {
        Some((LIST, data)) => {
            let (hashes, _) = data.as_chunks::<4>();
            hashes.binary_search_by_key(&short(hash), |bytes| u32::from_le_bytes(*bytes)).is_ok()
        }
        Some((BLOOM, data)) => {
            bits(hash, data.len()).all(|bit| data.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_flow_is_ever_hidden_and_the_cap_holds(flows in prop::collection::vec(any::<u64>(), 0..30_000), damage in 0usize..100) {
            let mut sorted = flows.clone();
            let mut index = encode(7, &mut sorted);
            prop_assert!(index.len() <= INDEX_BYTES);
            prop_assert!(flows.iter().all(|hash| may_hold(&index, 7, *hash)));
            prop_assert!(may_hold(&index, 8, 1), "an index of another segment hides nothing");
            if let Some(byte) = index.get_mut(damage) { *byte ^= 0x10; }
            prop_assert!(flows.iter().take(50).all(|hash| may_hold(&index, 7, *hash)));
        }
    }

    #[test]
    fn a_full_bloom_filter_still_tells_most_strangers_apart() {
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut flows: Vec<u64> = (0..45_000).map(hash).collect();
        let index = encode(1, &mut flows);
        let false_hits = (1_000_000..1_010_000).filter(|n| may_hold(&index, 1, hash(*n))).count();
        assert!(false_hits < 1_500, "{false_hits} of 10,000");
    }
}
