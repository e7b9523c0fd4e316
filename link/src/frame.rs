//! Messages on the wire, inside TLS.
//!
//! ```text
//! frame = length u32 (of payload) | kind u8 | stream u64 | payload     big-endian, payload at most 64 KiB
//! ```
//!
//! Control is JSON. A batch is one or more pieces, the last marked; packets are pieces of a pcapng stream named by their
//! query. A length beyond the bound ends the connection before anything is allocated.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Most payload in a frame.
pub const PAYLOAD_MAX: usize = 64 << 10;
/// Most payload of a frame that carries captured frames, of which one alone may have 64 KiB.
pub const FRAMES_MAX: usize = 256 << 10;
/// Most payload of a control message from a vSensor to its agents or from a master to its sensors, who trust it: a group
/// of thousands in one piece.
pub const ORDERS_MAX: usize = 2 << 20;
/// Largest batch that is put together from pieces.
pub const BATCH_MAX: usize = 8 << 20;
const HEAD: usize = 13;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A control message, JSON.
    Control = 1,
    /// A piece of a batch; more follow.
    BatchPiece = 2,
    /// The last piece of a batch.
    BatchEnd = 3,
    /// A piece of an answer; the stream is the query's id.
    Packets = 4,
    /// Frames of an agent: see [`crate::agent`].
    Frames = 5,
    /// Frames that an agent kept on its disk: see [`crate::agent`].
    LateFrames = 6,
}

impl Kind {
    fn from_number(number: u8) -> Option<Kind> {
        [Kind::Control, Kind::BatchPiece, Kind::BatchEnd, Kind::Packets, Kind::Frames, Kind::LateFrames]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WireFrame {
    /// What it carries.
    pub kind: Kind,
    /// Which stream.
    pub stream: u64,
    /// The payload.
    pub payload: Vec<u8>,
}

impl WireFrame {
    /// A control message.
    pub fn control(message: &impl serde::Serialize) -> WireFrame {
        WireFrame { kind: Kind::Control, stream: 0, payload: serde_json::to_vec(message).unwrap_or_default() }
    }

    /// What stands in front of a payload.
    pub fn head(kind: Kind, stream: u64, length: usize) -> [u8; HEAD] {
        let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        let [e, f, g, h, i, j, k, l] = stream.to_be_bytes();
        [a, b, c, d, kind as u8, e, f, g, h, i, j, k, l]
    }

    /// The frames of a batch.
    pub fn batch(bytes: &[u8]) -> Vec<WireFrame> {
        let last = bytes.len().div_ceil(PAYLOAD_MAX).saturating_sub(1);
        let piece = |(at, piece): (usize, &[u8])| WireFrame {
            kind: if at == last { Kind::BatchEnd } else { Kind::BatchPiece },
            stream: 0,
            payload: piece.to_vec(),
        };
        bytes.chunks(PAYLOAD_MAX).enumerate().map(piece).collect()
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD + self.payload.len());
        out.extend_from_slice(&u32::try_from(self.payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.stream.to_be_bytes());
        out.extend_from_slice(&self.payload);
        out
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// Reads the next frame; `None` at an orderly end between frames. Frames of an unknown kind are skipped.
pub async fn read<R: AsyncRead + Unpin>(from: &mut R) -> io::Result<Option<WireFrame>> {
    loop {
        let mut head = [0; HEAD];
        match from.read_exact(&mut head[..1]).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        };
        from.read_exact(&mut head[1..]).await?;
        let [a, b, c, d, kind, stream @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > bound_of(kind, PAYLOAD_MAX) {
            return Err(invalid("the peer announced a frame beyond the limit"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        if let Some(kind) = Kind::from_number(kind) {
            return Ok(Some(WireFrame { kind, stream: u64::from_be_bytes(stream), payload }));
        }
    }
}

/// Reads frames in a way that may be given up at any time: what came of a frame is kept for the next call.
pub struct FrameReader<R> {
    from: R,
    buffer: Vec<u8>,
    start: usize,
    control_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader of this stream.
    pub fn new(from: R) -> FrameReader<R> {
        FrameReader { from, buffer: Vec::new(), start: 0, control_max: PAYLOAD_MAX }
    }

    /// A reader of what comes from above: control messages may be as large as [`ORDERS_MAX`].
    pub fn of_orders(from: R) -> FrameReader<R> {
        FrameReader { control_max: ORDERS_MAX, ..FrameReader::new(from) }
    }

    /// The next frame; `None` at an orderly end between frames. Frames of an unknown kind are skipped.
    pub async fn next(&mut self) -> io::Result<Option<WireFrame>> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.reserve(PAYLOAD_MAX);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                let cut = !self.buffer.is_empty();
                return if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
        }
    }

    /// A whole frame of those in the buffer.
    fn take(&mut self) -> io::Result<Option<WireFrame>> {
        loop {
            let Some(&[a, b, c, d, kind, ref rest @ ..]) = self.buffer.get(self.start..) else { return Ok(None) };
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if length > bound_of(kind, self.control_max) {
                return Err(invalid("the peer announced a frame beyond the limit"));
            }
            let Some((stream, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            let (Some(payload), stream) = (rest.get(..length), u64::from_be_bytes(*stream)) else { return Ok(None) };
            let frame = Kind::from_number(kind).map(|kind| WireFrame { kind, stream, payload: payload.to_vec() });
            self.start += HEAD + length;
            if frame.is_some() {
                return Ok(frame);
            }
        }
    }
}

fn bound_of(kind: u8, control_max: usize) -> usize {
    if kind == Kind::Frames as u8 || kind == Kind::LateFrames as u8 {
        FRAMES_MAX
    } else if kind == Kind::Control as u8 {
        control_max
    } else {
        PAYLOAD_MAX
    }
}

/// Batches put together from their pieces.
#[derive(Default)]
pub struct Assembly(Vec<u8>);

impl Assembly {
    /// Adds a piece; gives the batch at its end.
    pub fn add(&mut self, frame: WireFrame) -> io::Result<Option<Vec<u8>>> {
        if self.0.len() + frame.payload.len() > BATCH_MAX {
            return Err(invalid("the peer sent a batch beyond the limit of 8 MiB"));
        }
        if self.0.is_empty() && frame.kind == Kind::BatchEnd {
            return Ok(Some(frame.payload));
        }
        self.0.extend_from_slice(&frame.payload);
        Ok((frame.kind == Kind::BatchEnd).then(|| std::mem::take(&mut self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn a_batch_survives_its_pieces(bytes in prop::collection::vec(any::<u8>(), 1..200_000)) {
            let wire: Vec<u8> = WireFrame::batch(&bytes).iter().flat_map(WireFrame::encode).collect();
            let (mut from, mut assembly) = (wire.as_slice(), Assembly::default());
            let back = block(async {
                loop {
                    let frame = read(&mut from).await.unwrap().unwrap();
                    if let Some(batch) = assembly.add(frame).unwrap() { return batch }
                }
            });
            prop_assert_eq!(back, bytes);
        }

        #[test]
        fn orders_may_be_large_and_what_comes_from_below_may_not(len in PAYLOAD_MAX + 1..=ORDERS_MAX + 1) {
            let mut wire = u32::try_from(len).unwrap().to_be_bytes().to_vec();
            wire.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
            wire.resize(HEAD + len, b' ');
            let from_above = block(FrameReader::of_orders(wire.as_slice()).next());
            prop_assert_eq!(from_above.is_ok(), len <= ORDERS_MAX);
            prop_assert!(block(FrameReader::new(wire.as_slice()).next()).is_err());
            prop_assert!(block(read(&mut wire.as_slice())).is_err());
        }

        #[test]
        fn any_bytes_end_in_order_or_in_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut from = bytes.as_slice();
            while let Ok(Some(_)) = block(read(&mut from)) {}
        }
    }
}
