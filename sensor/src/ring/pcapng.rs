//! Answers as pcapng: interfaces with port, sensor and network group, nanosecond stamps; what is missing is said in a
//! comment at the end, so that a file that is cut short says so itself.

use super::layout::{PACKET, PACKET_OVERHEAD, SECTION, SNAPLEN, block, option};
use super::reader::Found;
use thymus_dissect::LinkType;
use thymus_record::query::QueryReport;

const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;

/// Writes a pcapng stream into a buffer that the caller empties.
pub struct PcapngWriter {
    sensor: String,
    interfaces: Vec<(String, String, LinkType)>,
    /// What is to be sent.
    pub out: Vec<u8>,
}

fn link_number(link: LinkType) -> u16 {
    match link {
        LinkType::Ethernet => 1,
        LinkType::Ip => 101,
        LinkType::LinuxSll => 113,
        LinkType::LinuxSll2 => 276,
        LinkType::Loopback => 0,
        LinkType::Ppp => 9,
        LinkType::Unknown(number) => number,
    }
}

impl PcapngWriter {
    /// A stream of this sensor's packets; its head is in the buffer.
    pub fn new(sensor: &str) -> PcapngWriter {
        let mut body = Vec::new();
        body.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
        body.extend_from_slice(&[1, 0, 0, 0]);
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        option(&mut body, 4, format!("Thymus {}", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut body, 1, format!("sensor {sensor}").as_bytes());
        body.extend_from_slice(&[0; 4]);
        PcapngWriter { sensor: sensor.to_owned(), interfaces: Vec::new(), out: block(SECTION, &body) }
    }

    /// Adds a packet.
    pub fn packet(&mut self, found: &Found<'_>) {
        let frame = &found.frame;
        let known = self
            .interfaces
            .iter()
            .position(|each| each.0 == found.port_name && each.1 == found.group && each.2 == frame.link);
        let number = known.unwrap_or_else(|| self.interface(found));
        let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let total = word(frame.bytes.len().next_multiple_of(4) + PACKET_OVERHEAD);
        let time = frame.time.0;
        let low = u32::try_from(time & u64::from(u32::MAX)).unwrap_or_default();
        let high = u32::try_from(time >> 32).unwrap_or_default();
        for each in [PACKET, total, word(number), high, low, word(frame.bytes.len()), frame.wire_len] {
            self.out.extend_from_slice(&each.to_le_bytes());
        }
        self.out.extend_from_slice(frame.bytes);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self.out.extend_from_slice(&total.to_le_bytes());
    }

    fn interface(&mut self, found: &Found<'_>) -> usize {
        let mut body = Vec::new();
        body.extend_from_slice(&link_number(found.frame.link).to_le_bytes());
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&u32::try_from(SNAPLEN).unwrap_or(u32::MAX).to_le_bytes());
        option(&mut body, 2, found.port_name.as_bytes());
        option(&mut body, 3, format!("sensor {}, network {}", self.sensor, found.group).as_bytes());
        option(&mut body, 9, &[9]);
        body.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&block(INTERFACE, &body));
        self.interfaces.push((found.port_name.to_owned(), found.group.to_owned(), found.frame.link));
        self.interfaces.len() - 1
    }

    /// Ends the stream: how many packets there are, and what is missing.
    pub fn end(&mut self, report: &QueryReport) {
        if self.interfaces.is_empty() {
            return;
        }
        let mut body = vec![0; 12];
        let words = match &report.cut_short {
            None => format!("complete: {} packets, {} bytes", report.packets, report.bytes),
            Some(why) => format!("cut short after {} packets: {why}", report.packets),
        };
        option(&mut body, 1, words.as_bytes());
        body.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&block(STATISTICS, &body));
    }
}
