//! A raw disk as a streamOptimized VMDK, the form that an OVA carries: written front to back, every grain compressed,
//! with the footer and end-of-stream marker that ESX wants.
//!
//! ```text
//! header | descriptor | (marker, compressed grain)… , after each 512 grains a marker and their grain table …
//! | marker, grain directory | marker, footer (a header that knows where the directory is) | end of stream
//! ```
//!
//! Everything counts in sectors of 512 bytes. A grain of nothing but zeroes is left out, and reads as zeroes.
#![forbid(unsafe_code)]

use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::{self, Read, Write};

const SECTOR: usize = 512;
/// Sectors in a grain: 64 KiB.
const GRAIN: u64 = 128;
/// Grains that one table covers.
const TABLE: usize = 512;
/// Sectors of the descriptor.
const DESCRIPTOR: u64 = 20;
/// Sectors before the first grain.
const OVERHEAD: u64 = 128;
/// "At the end": where the directory is stands in the footer.
const AT_END: u64 = u64::MAX;

/// Kinds of markers.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Marker {
    End = 0,
    Table = 1,
    Directory = 2,
    Footer = 3,
}

/// Counts the bytes that pass.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Counted<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.inner.write_all(bytes)
    }

    /// Zeroes up to the next sector.
    fn pad(&mut self) -> io::Result<()> {
        let rest = usize::try_from(self.bytes % SECTOR as u64).unwrap_or_default();
        if rest > 0 { self.put(&vec![0; SECTOR - rest]) } else { Ok(()) }
    }

    fn sector(&self) -> u64 {
        self.bytes / SECTOR as u64
    }

    /// A marker of metadata: how many sectors follow, and of what kind.
    fn mark(&mut self, sectors: u64, kind: Marker) -> io::Result<()> {
        let mut marker = [0; SECTOR];
        put_at(&mut marker, 0, &sectors.to_le_bytes());
        put_at(&mut marker, 12, &(kind as u32).to_le_bytes());
        self.put(&marker)
    }
}

fn put_at(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn header(capacity: u64, directory: u64) -> [u8; SECTOR] {
    let mut header = [0; SECTOR];
    put_at(&mut header, 0, b"KDMV");
    put_at(&mut header, 4, &3u32.to_le_bytes());
    // Valid line-end test, compressed grains, markers.
    put_at(&mut header, 8, &0x0003_0001u32.to_le_bytes());
    put_at(&mut header, 12, &capacity.to_le_bytes());
    put_at(&mut header, 20, &GRAIN.to_le_bytes());
    put_at(&mut header, 28, &1u64.to_le_bytes());
    put_at(&mut header, 36, &DESCRIPTOR.to_le_bytes());
    put_at(&mut header, 44, &512u32.to_le_bytes());
    put_at(&mut header, 56, &directory.to_le_bytes());
    put_at(&mut header, 64, &OVERHEAD.to_le_bytes());
    put_at(&mut header, 73, b"\n \r\n");
    // Deflate.
    put_at(&mut header, 77, &1u16.to_le_bytes());
    header
}

fn descriptor(capacity: u64, name: &str) -> String {
    // Content decides the id, so that the same disk gives the same bytes.
    let id = (capacity & 0xffff_ffff) ^ 0x7468_796d;
    let cylinders = (capacity / (255 * 63)).clamp(1, 65_535);
    format!(
        "# Disk DescriptorFile\nversion=1\nCID={id:08x}\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n\
         # Extent description\nRW {capacity} SPARSE \"{name}\"\n\n# The Disk Data Base\n#DDB\n\n\
         ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"255\"\n\
         ddb.geometry.sectors = \"63\"\nddb.virtualHWVersion = \"13\"\n"
    )
}

/// Writes `bytes` of a raw disk, which must be whole sectors, as a VMDK of this file name.
pub fn write(raw: &mut impl Read, bytes: u64, out: impl Write, name: &str) -> io::Result<()> {
    if bytes == 0 || !bytes.is_multiple_of(SECTOR as u64) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a disk has whole sectors, and {bytes} bytes are none"),
        ));
    }
    let capacity = bytes / SECTOR as u64;
    let mut out = Counted { inner: out, bytes: 0 };
    out.put(&header(capacity, AT_END))?;
    let text = descriptor(capacity, name);
    let mut head = vec![0; SECTOR * usize::try_from(OVERHEAD - 1).unwrap_or_default()];
    put_at(&mut head, 0, text.as_bytes());
    out.put(&head)?;
    let (mut directory, mut table) = (Vec::new(), Vec::with_capacity(TABLE));
    let mut left = bytes;
    let mut grain = vec![0; SECTOR * usize::try_from(GRAIN).unwrap_or_default()];
    let mut number = 0u64;
    while left > 0 {
        let len = usize::try_from(left.min(grain.len() as u64)).unwrap_or(grain.len());
        let part = grain.get_mut(..len).unwrap_or_default();
        raw.read_exact(part)?;
        left -= len as u64;
        grain.iter_mut().skip(len).for_each(|byte| *byte = 0);
        table.push(if grain.iter().all(|byte| *byte == 0) { 0 } else { put_grain(&mut out, number * GRAIN, &grain)? });
        number += 1;
        if table.len() == TABLE || left == 0 {
            directory.push(put_table(&mut out, &mut table)?);
        }
    }
    let words = bytes_of(&directory);
    out.mark(words.len().div_ceil(SECTOR) as u64, Marker::Directory)?;
    let place = out.sector();
    out.put(&words)?;
    out.pad()?;
    out.mark(1, Marker::Footer)?;
    out.put(&header(capacity, place))?;
    out.mark(0, Marker::End)?;
    out.inner.flush()
}

/// A grain behind its marker; gives its sector.
fn put_grain(out: &mut Counted<impl Write>, first: u64, grain: &[u8]) -> io::Result<u32> {
    let mut packed = ZlibEncoder::new(Vec::with_capacity(grain.len()), Compression::new(6));
    packed.write_all(grain)?;
    let packed = packed.finish()?;
    let sector = sector_number(out.sector())?;
    out.put(&first.to_le_bytes())?;
    out.put(&u32::try_from(packed.len()).map_err(io::Error::other)?.to_le_bytes())?;
    out.put(&packed)?;
    out.pad()?;
    Ok(sector)
}

/// A table behind its marker, empty again afterwards; gives its sector, 0 if it names no grain.
fn put_table(out: &mut Counted<impl Write>, table: &mut Vec<u32>) -> io::Result<u32> {
    let empty = table.iter().all(|entry| *entry == 0);
    table.resize(TABLE, 0);
    let words = bytes_of(table);
    table.clear();
    if empty {
        return Ok(0);
    }
    out.mark((words.len() / SECTOR) as u64, Marker::Table)?;
    let sector = sector_number(out.sector())?;
    out.put(&words)?;
    Ok(sector)
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn sector_number(sector: u64) -> io::Result<u32> {
    u32::try_from(sector).map_err(|_error| io::Error::other("a VMDK beyond 2 TiB"))
}
