//! `thymus-sensor read`: capture files to Zeek logs or JSON lines, without ring, spool or master.

mod zeek;

use crate::clock::SystemClock;
use crate::source::replay::{Pace, ReplaySource};
use crate::source::{BURST_MAX, PacketSource, Received};
use clap::{Args, ValueEnum};
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use thymus_dissect::flow::{FlowShard, FlowTag, NetworkTable, ShardConfig};
use thymus_forward::Certificates;
use thymus_record::json::{Origin, write_record};
use thymus_record::table::{FlowKind, FlowRow};
use thymus_record::{BootId, FlowUid, Record, SensorId};

/// The boot of rows made from files: always the same, so that two runs give equal rows.
pub const FILE_BOOT: BootId = BootId(0x0074_6879_6d75_7300);
/// The hash secret for files, for the same reason.
pub const FILE_SECRET: [u64; 2] = [0x5448_594d_5553_0001, 0x9e37_79b9_7f4a_7c15];
/// Flows open at once while reading files; small files need no large table.
const FLOWS_MAX: u64 = 262_144;
/// No flow takes fewer bytes of a file than this.
const FLOW_BYTES: u64 = 76;

/// Reads capture files and writes what they hold.
#[derive(Args, Debug)]
pub struct ReadArgs {
    /// pcap or pcapng files, read as one port, in this order.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// `zeek`: conn.log, dns.log … in DIR; `jsonl`: every record as a JSON object a line, on stdout.
    #[arg(long, value_enum, default_value_t = Out::Jsonl)]
    out: Out,
    /// Where Zeek logs go; made if it is not there.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Out {
    Zeek,
    Jsonl,
}

/// What a port that reads files is called.
pub fn port_name(files: &[PathBuf]) -> String {
    let name = files.first().and_then(|file| file.file_name()).map(|name| name.to_string_lossy().into_owned());
    format!("file:{}", name.unwrap_or_default())
}

/// Where records of a file go.
trait Writer {
    fn write(&mut self, record: &Record, networks: &NetworkTable) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

/// Runs the verb: 0, or 1 where a file was damaged or could not be written.
pub fn run(args: ReadArgs) -> ExitCode {
    let clock = Arc::new(SystemClock::default());
    let bytes: u64 = args.files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
    let flows_max = usize::try_from((bytes / FLOW_BYTES).clamp(256, FLOWS_MAX)).unwrap_or(256);
    let mut source = match ReplaySource::open(args.files, Pace::Max, clock) {
        Ok(source) => source,
        Err(error) => return failed(&error.to_string()),
    };
    let written = match args.out {
        Out::Zeek => zeek::Logs::open(&args.dir).and_then(|mut logs| read(&mut source, flows_max, &mut logs)),
        Out::Jsonl => read(&mut source, flows_max, &mut Lines::new(BufWriter::new(io::stdout().lock()))),
    };
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&format!("cannot write to {}: {error}", args.dir.display())),
        Ok(()) if source.broken().is_empty() => ExitCode::SUCCESS,
        Ok(()) => failed(&source.broken().join("\n")),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("thymus-sensor read: {why}");
    ExitCode::FAILURE
}

fn read(source: &mut ReplaySource, flows_max: usize, writer: &mut dyn Writer) -> io::Result<()> {
    let mut shard = FlowShard::new(ShardConfig { shard: 0, flows_max, secret: FILE_SECRET, ports: 1 });
    let mut networks = NetworkTable::new(&["default"]);
    let mut records: Vec<Record> = Vec::new();
    let mut certificates = Certificates::default();
    loop {
        let received = source.receive_burst(|burst| {
            let mut tags = [FlowTag::default(); BURST_MAX];
            shard.observe_burst(burst.frames, &mut networks, &mut records, &mut tags);
            shard.advance(burst.now, &mut records);
        });
        let ended = received.map_err(|error| io::Error::other(error.to_string()))? == Received::End;
        if ended {
            shard.finish(&mut records);
        }
        for record in records.drain(..) {
            if !certificates.is_known(&record) {
                writer.write(&record, &networks)?;
            }
        }
        if ended {
            return writer.finish();
        }
    }
}

/// Who made the rows of a file.
pub(crate) fn maker() -> FlowUid {
    FlowUid { sensor: SensorId(0), boot: FILE_BOOT, ..FlowUid::default() }
}

/// JSON lines. A flow is one line, the fold of its rows.
struct Lines<W> {
    out: W,
    line: String,
    flows: Folds,
}

impl<W: Write> Lines<W> {
    fn new(out: W) -> Lines<W> {
        Lines { out, line: String::new(), flows: Folds::default() }
    }
}

impl<W: Write> Writer for Lines<W> {
    fn write(&mut self, record: &Record, networks: &NetworkTable) -> io::Result<()> {
        let folded = match record {
            Record::Flow(row) => match self.flows.add(row) {
                Some(flow) => Record::Flow(flow),
                None => return Ok(()),
            },
            other => other.clone(),
        };
        self.line.clear();
        write_record(&folded, Origin { maker: maker(), network: &networks.path(record.network()) }, &mut self.line);
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Flows whose rows are still coming.
#[derive(Default)]
struct Folds(HashMap<u64, FlowRow>);

impl Folds {
    /// Adds a row; gives the flow when it was the last one.
    fn add(&mut self, row: &FlowRow) -> Option<FlowRow> {
        let ends = row.kind == FlowKind::End;
        if ends && row.ordinal == 0 {
            return Some(row.clone());
        }
        let fold = self.0.entry(row.sequence).and_modify(|fold| fold.fold(row)).or_insert_with(|| row.clone());
        if !ends {
            return None;
        }
        let flow = fold.clone();
        self.0.remove(&row.sequence);
        Some(flow)
    }
}
