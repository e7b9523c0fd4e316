//! IP fragments put together (RFC 791, RFC 8200 §4.5): bounded in datagrams, bytes and time. Fragments that contradict
//! each other make no datagram. Frames of a datagram that never comes together are told as frames of no flow.

use crate::decode::{Datagram, Packet};
use thymus_record::ledger::Count;
use thymus_record::time::SECOND;
use thymus_record::{Address, Time};

/// Datagrams under way at once; the oldest goes.
const DATAGRAMS_MAX: usize = 256;
/// Fragments of one datagram.
const FRAGMENTS_MAX: usize = 256;
/// Largest datagram.
const BYTES_MAX: usize = 65_535 + 64;
/// A datagram that is not whole after this is given up (RFC 1122 asks for 60 to 120 s).
const TIMEOUT: u64 = 60 * SECOND;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    network: u32,
    source: Address,
    target: Address,
    proto: u8,
    id: u32,
}

struct Assembly {
    name: Name,
    port: u16,
    began: Time,
    head: Vec<u8>,
    data: Vec<u8>,
    parts: Vec<(u32, u32)>,
    total: Option<u32>,
    frames: Count,
    broken: bool,
}

/// A datagram put together: head and data, and the frames that carried it.
pub(super) struct Whole {
    /// The first fragment's head and all data.
    pub(super) bytes: Vec<u8>,
    /// Its frames.
    pub(super) frames: Count,
}

/// Datagrams under way.
#[derive(Default)]
pub(super) struct Fragments {
    open: Vec<Assembly>,
}

impl Fragments {
    /// Adds a fragment; gives the datagram if it is now whole. `lost` is told of frames given up, by port.
    pub(super) fn add(
        &mut self,
        network: u32,
        packet: &Packet<'_>,
        datagram: &Datagram<'_>,
        frame: (u16, u64, Time),
        mut lost: impl FnMut(u16, Count),
    ) -> Option<Whole> {
        let (port, wire, now) = frame;
        let fragment = datagram.fragment?;
        let name = Name {
            network,
            source: datagram.source,
            target: datagram.target,
            proto: if datagram.v6 { 0 } else { datagram.proto.0 },
            id: datagram.id,
        };
        let _ = packet;
        let at = match self.open.iter().position(|each| each.name == name) {
            Some(at) => at,
            None => {
                if self.open.len() >= DATAGRAMS_MAX {
                    let oldest = self.open.remove(0);
                    lost(oldest.port, oldest.frames);
                }
                self.open.push(Assembly {
                    name,
                    port,
                    began: now,
                    head: Vec::new(),
                    data: Vec::new(),
                    parts: Vec::new(),
                    total: None,
                    frames: Count::default(),
                    broken: false,
                });
                self.open.len() - 1
            }
        };
        let assembly = self.open.get_mut(at)?;
        assembly.frames.add(wire);
        let data_at = usize::from(fragment.data_at);
        let (head, data) = datagram.bytes.split_at_checked(data_at)?;
        assembly.put(head, data, fragment.offset, fragment.more);
        if !assembly.is_whole() {
            return None;
        }
        let assembly = self.open.remove(at);
        let mut bytes = assembly.head;
        bytes.extend_from_slice(&assembly.data);
        Some(Whole { bytes, frames: assembly.frames })
    }

    /// Gives up what is too old, or at the end all.
    pub(super) fn expire(&mut self, now: Option<Time>, mut lost: impl FnMut(u16, Count)) {
        self.open.retain(|each| {
            let stays = now.is_some_and(|now| now.since(each.began) < TIMEOUT);
            if !stays {
                lost(each.port, each.frames);
            }
            stays
        });
    }
}

impl Assembly {
    fn put(&mut self, head: &[u8], data: &[u8], offset: u32, more: bool) {
        let end = offset as usize + data.len();
        if self.parts.len() >= FRAGMENTS_MAX || end > BYTES_MAX {
            self.broken = true;
            return;
        }
        if offset == 0 {
            self.head = head.to_vec();
        }
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        if !more {
            self.broken |= self.total.is_some_and(|total| total != end);
            self.total = Some(end);
        }
        // Bytes that came before stay: an overlap brings only what is new.
        if self.data.len() < end as usize {
            self.data.resize(end as usize, 0);
        }
        let mut from = offset;
        while from < end {
            let covered = self.parts.iter().find(|part| part.0 <= from && from < part.1).map(|part| part.1);
            if let Some(until) = covered {
                from = until;
                continue;
            }
            let until =
                self.parts.iter().map(|part| part.0).filter(|start| *start > from).min().unwrap_or(end).min(end);
            let (here, there) = (from as usize..until as usize, (from - offset) as usize..(until - offset) as usize);
            if let (Some(place), Some(bytes)) = (self.data.get_mut(here), data.get(there)) {
                place.copy_from_slice(bytes);
            }
            self.parts.push((from, until));
            from = until;
        }
    }

    fn is_whole(&self) -> bool {
        let Some(total) = self.total else { return false };
        let covered: u32 = self.parts.iter().map(|part| part.1.min(total) - part.0.min(total)).sum();
        !self.broken && !self.head.is_empty() && covered == total && self.data.len() == total as usize
    }
}
