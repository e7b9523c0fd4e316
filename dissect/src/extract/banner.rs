//! Services that are told by their first bytes alone: no table of their own yet, but a name on the flow.

use super::{Direction, Extractor, FlowContext, Verdict};
use thymus_record::RecordSink;
use thymus_record::column::Proto;

/// A flow whose service is known by its first bytes.
#[derive(Clone, Copy, Debug)]
pub struct Banner {
    service: &'static str,
}

impl Banner {
    /// The service that these bytes show.
    pub fn probe(flow: &FlowContext, direction: Direction, first: &[u8]) -> Option<Banner> {
        let service = match flow.proto {
            Proto::TCP => stream(flow, direction, first),
            Proto::UDP => datagram(flow, first),
            _ => None,
        };
        service.map(|service| Banner { service })
    }
}

fn stream(flow: &FlowContext, direction: Direction, first: &[u8]) -> Option<&'static str> {
    let answers = direction == Direction::Responder;
    match first {
        [b'S', b'S', b'H', b'-', ..] => Some("ssh"),
        [b'2', b'2', b'0', b' ' | b'-', ..] if answers && matches!(flow.resp_p, 25 | 465 | 587) => Some("smtp"),
        [b'2', b'2', b'0', b' ' | b'-', ..] if answers && flow.resp_p == 21 => Some("ftp"),
        [b'+', b'O', b'K', ..] if answers && flow.resp_p == 110 => Some("pop3"),
        [b'*', b' ', b'O', b'K', ..] if answers && flow.resp_p == 143 => Some("imap"),
        [0, _, _, _, 0xfe | 0xff, b'S', b'M', b'B', ..] => Some("smb"),
        [3, 0, _, _, _, 0xe0, ..] if flow.resp_p == 3_389 => Some("rdp"),
        _ => None,
    }
}

fn datagram(flow: &FlowContext, first: &[u8]) -> Option<&'static str> {
    let ports = [flow.orig_p, flow.resp_p];
    match first {
        [1 | 2, 1, 6, ..] if first.get(236..240) == Some(&[0x63, 0x82, 0x53, 0x63]) => Some("dhcp"),
        [mode, ..] if ports.contains(&123) && first.len() >= 48 && matches!(mode & 7, 1..=5) => Some("ntp"),
        [0x30, ..] if ports.contains(&161) || ports.contains(&162) => Some("snmp"),
        [b'<', ..] if flow.resp_p == 514 => Some("syslog"),
        _ => None,
    }
}

impl Extractor for Banner {
    fn on_bytes(&mut self, _: &FlowContext, _: Direction, _: &[u8], _: &mut dyn RecordSink) -> Verdict {
        Verdict::Done
    }

    fn on_gap(&mut self, _: &FlowContext, _: Direction, _: u64, _: &mut dyn RecordSink) -> Verdict {
        Verdict::Done
    }

    fn on_close(&mut self, _: &FlowContext, _: &mut dyn RecordSink) {}

    fn service(&self) -> Option<&'static str> {
        Some(self.service)
    }
}
