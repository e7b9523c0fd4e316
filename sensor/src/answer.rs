//! Packet queries of the master, answered from the ring. The sensor applies the asker's scope itself.

use crate::ring::{PcapngWriter, RingReader};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use thymus_link::Answer;
use thymus_record::query::{PcapQuery, QueryReport};

/// Bytes gathered before they are sent.
const PIECE: usize = 64 << 10;

/// Answers from a ring.
pub struct RingAnswer {
    /// The ring's folder, if packets are kept.
    pub dir: Option<PathBuf>,
    /// The sensor's name, for the files.
    pub sensor: String,
}

impl Answer for RingAnswer {
    fn answer(
        &self,
        query: &PcapQuery,
        cancelled: &AtomicBool,
        out: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<QueryReport, String> {
        let dir = self.dir.as_ref().ok_or("this sensor keeps no packets: its configuration has no [ring]")?;
        let reader = RingReader::open(dir).map_err(|error| error.to_string())?;
        let mut writer = PcapngWriter::new(&self.sensor);
        let mut wanted = true;
        let report = reader.query(query, |found| {
            writer.packet(found);
            if writer.out.len() >= PIECE {
                wanted = out(&writer.out);
                writer.out.clear();
            }
            wanted && !cancelled.load(Ordering::Relaxed)
        })?;
        if report.packets > 0 && wanted {
            writer.end(&report);
            out(&writer.out);
        }
        Ok(report)
    }
}
