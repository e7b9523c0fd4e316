//! Frames to work on: generated traffic held in memory, and flows that are already established.

use thymus_dissect::flow::{FlowShard, FlowTag, NetworkTable, ShardConfig};
use thymus_dissect::{Frame, LinkType};
use thymus_record::{Record, RecordSink, Time};
use thymus_sensor::source::generate::{Generate, Limit, Traffic};
use thymus_sensor::source::{PacketSource, Received, SourceError};

/// A frame, kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its packet time.
    pub time: Time,
}

impl Kept {
    /// As sources lend it.
    pub fn frame(&self) -> Frame<'_> {
        let wire_len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        Frame { bytes: &self.bytes, wire_len, time: self.time, link: LinkType::Ethernet, port: 0, ..Frame::default() }
    }
}

/// So many packets of this traffic.
pub fn generated(traffic: Traffic, packets: u64) -> Result<Vec<Kept>, SourceError> {
    let mut source = Generate::new(Traffic { limit: Limit::Packets(packets), ..traffic })?;
    let mut kept = Vec::new();
    let mut take = |frames: &[Frame<'_>]| {
        kept.extend(frames.iter().map(|frame| Kept { bytes: frame.bytes.to_vec(), time: frame.time }));
    };
    while source.receive_burst(|burst| take(burst.frames))? != Received::End {}
    Ok(kept)
}

/// TCP segments of established connections, one each, with `payload` bytes; sequence numbers go on by `round`.
pub fn established(flows: u32, payload: usize, round: u32) -> Vec<Kept> {
    (0..flows).map(|flow| segment(flow, payload, round)).collect()
}

fn segment(flow: u32, payload: usize, round: u32) -> Kept {
    let [_, b, c, d] = flow.to_be_bytes();
    let ip_len = u16::try_from(payload + 40).unwrap_or(u16::MAX).to_be_bytes();
    let seq = round.wrapping_mul(u32::try_from(payload).unwrap_or(1)).to_be_bytes();
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    bytes.extend_from_slice(&ip_len);
    bytes.extend_from_slice(&[c, d, 0x40, 0, 64, 6, 0, 0, 10, b, c, d, 192, 168, 1, 1, 0xc0, d, 1, 187]);
    bytes.extend_from_slice(&seq);
    bytes.extend_from_slice(&[0, 0, 0, 1, 0x50, 0x10, 2, 0, 0, 0, 0, 0]);
    bytes.resize(54 + payload, 0xa7);
    Kept { bytes, time: Time(1_700_000_000_000_000_000 + u64::from(round) * 1_000_000) }
}

/// Records counted and dropped.
#[derive(Debug, Default)]
pub struct Dropped(pub u64);

impl RecordSink for Dropped {
    fn emit(&mut self, _: Record) {
        self.0 += 1;
    }
}

/// A flow shard with all that it needs.
pub struct Bench {
    /// The shard.
    pub shard: FlowShard,
    /// Its network numbers.
    pub networks: NetworkTable,
    /// What it told.
    pub records: Dropped,
}

impl Bench {
    /// For so many flows at once.
    pub fn new(flows_max: usize) -> Bench {
        let shard = FlowShard::new(ShardConfig { shard: 0, flows_max, secret: [3, 5], ports: 1 });
        Bench { shard, networks: NetworkTable::new(&["default"]), records: Dropped::default() }
    }

    /// Takes frames in bursts of 64.
    pub fn observe(&mut self, frames: &[Frame<'_>]) {
        let mut tags = [FlowTag::default(); 64];
        for burst in frames.chunks(64) {
            let tags = tags.get_mut(..burst.len()).unwrap_or_default();
            self.shard.observe_burst(burst, &mut self.networks, &mut self.records, tags);
            if let Some(last) = burst.last() {
                self.shard.advance(last.time, &mut self.records);
            }
        }
    }
}
