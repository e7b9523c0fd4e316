//! Packets fetched back. The sensors that saw a flow are asked, the primary first; an answer begins only with the first
//! packet in hand, so that an empty file never stands for a reason. One that breaks off ends in an aborted transfer.

use crate::sensors::{AnswerPart, Sensors};
use crate::server::Master;
use axum::body::Body;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use thymus_record::query::{FlowMatch, PcapQuery};
use thymus_record::{Scope, SensorId, Time};
use thymus_store::FlowDetail;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A sensor that says nothing for this long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A sensor that is away is waited for this long.
const RETURN_MAX: Duration = Duration::from_secs(4);
const RETURN_STEP: Duration = Duration::from_millis(50);
/// A closed connection's flow lives on for 5 s.
const LINGER: u64 = 5_000_000_000;
/// pcapng's block of packets.
const ENHANCED_PACKET: u32 = 6;

/// Why there are no packets.
#[derive(Debug, PartialEq, Eq)]
pub enum NoPackets {
    /// The ring has overwritten them, or they were never sent.
    Gone(String),
    /// No sensor that has them is connected.
    Away(String),
    /// There are none that match.
    None(String),
    /// The question is wrong.
    Wrong(String),
}

/// The question for a flow's packets.
pub fn query_of(flow: &FlowDetail, scope: &Scope) -> PcapQuery {
    PcapQuery {
        from: Some(flow.first),
        // Packets that follow a close belong to the flow, but do not count for its duration.
        until: Some(flow.last + LINGER),
        flow: Some(FlowMatch {
            network: flow.network.to_string(),
            a: flow.orig.0.to_string(),
            a_port: flow.orig.1,
            b: flow.resp.0.to_string(),
            b_port: flow.resp.1,
            proto: flow.proto.0,
            last: Some(flow.last),
        }),
        scope: scope_texts(scope),
        ..PcapQuery::default()
    }
}

/// A scope as a sensor applies it.
pub fn scope_texts(scope: &Scope) -> Option<Vec<String>> {
    match scope {
        Scope::All => None,
        Scope::Within(paths) => Some(paths.iter().map(ToString::to_string).collect()),
    }
}

/// Asks these sensors; the first that has packets answers.
pub async fn fetch(master: Arc<Master>, sensors: Vec<SensorId>, query: PcapQuery) -> Result<Body, NoPackets> {
    let mut reasons = Vec::new();
    let (mut was_connected, mut only) = (false, Vec::new());
    for sensor in sensors {
        let name = master.sensor_name(sensor);
        if master.book.sensor(sensor).ok().flatten().is_some_and(|entry| entry.agent) {
            // Its rows were made on the host itself, and its packets never left it.
            only.push(name);
            continue;
        }
        let (first, rest) = mpsc::channel(8);
        let (asker, asked) = (Arc::clone(&master), query.clone());
        tokio::spawn(async move { relay(&asker.sensors, sensor, asked, first).await });
        match first_part(rest).await {
            Ok(body) => return Ok(body),
            Err(Miss::Away) => reasons.push(format!("{name} is away")),
            Err(Miss::Nothing { oldest }) => {
                was_connected = true;
                let gone = oldest.filter(|oldest| query.until.is_some_and(|until| until < *oldest));
                match gone {
                    Some(oldest) => {
                        return Err(NoPackets::Gone(format!(
                            "{name} has overwritten them: its ring begins at {oldest}"
                        )));
                    }
                    None => reasons.push(format!("{name} has none that match")),
                }
            }
            Err(Miss::Failed(why)) => {
                was_connected = true;
                reasons.push(format!("{name}: {why}"));
            }
        }
    }
    if !only.is_empty() {
        reasons.push(format!("metadata only at {}", only.join(", ")));
        if reasons.len() == 1 {
            return Err(NoPackets::Gone(reasons.join("; ")));
        }
    }
    let words =
        if reasons.is_empty() { "no sensor is known that could have them".to_owned() } else { reasons.join("; ") };
    Err(match (was_connected, words.contains("filter:")) {
        (_, true) => NoPackets::Wrong(words),
        (true, _) => NoPackets::None(words),
        (false, _) => NoPackets::Away(words),
    })
}

enum Miss {
    Away,
    Nothing { oldest: Option<Time> },
    Failed(String),
}

type Piece = Result<Bytes, std::io::Error>;

enum Start {
    Piece(Bytes),
    Miss(Miss),
}

enum Part {
    Start(Start),
    More(Piece),
}

/// Waits for the first packet, then hands the stream over.
async fn first_part(mut parts: mpsc::Receiver<Part>) -> Result<Body, Miss> {
    let first = match parts.recv().await {
        Some(Part::Start(Start::Piece(bytes))) => bytes,
        Some(Part::Start(Start::Miss(miss))) => return Err(miss),
        Some(Part::More(_)) | None => return Err(Miss::Failed("it went away".to_owned())),
    };
    let stream = futures::stream::unfold((Some(first), parts), |(first, mut parts)| async move {
        if let Some(first) = first {
            return Some((Ok(first), (None, parts)));
        }
        match parts.recv().await? {
            Part::More(piece) => Some((piece, (None, parts))),
            Part::Start(_) => None,
        }
    });
    Ok(Body::from_stream(stream))
}

/// Asks one sensor and passes its answer on. Nothing is passed before a packet block is in it.
async fn relay(sensors: &Sensors, sensor: SensorId, query: PcapQuery, to: mpsc::Sender<Part>) {
    // A sensor comes back by itself within seconds after a restart on either side.
    let mut waited = Duration::ZERO;
    while sensors.live(sensor).is_none() && waited < RETURN_MAX {
        tokio::time::sleep(RETURN_STEP).await;
        waited += RETURN_STEP;
    }
    let Some(mut question) = sensors.ask(sensor, query) else {
        let _ = to.send(Part::Start(Start::Miss(Miss::Away))).await;
        return;
    };
    let mut held = Some(Vec::new());
    loop {
        let part = timeout(SILENCE_MAX, question.next()).await;
        let part = part.unwrap_or_else(|_elapsed| AnswerPart::Failed("it was silent for a minute".to_owned()));
        let sent = match (part, held.take()) {
            (AnswerPart::Piece(piece), Some(mut before)) => {
                before.extend_from_slice(&piece);
                if has_packet(&before) {
                    to.send(Part::Start(Start::Piece(before.into()))).await
                } else {
                    held = Some(before);
                    Ok(())
                }
            }
            (AnswerPart::Piece(piece), None) => to.send(Part::More(Ok(piece.into()))).await,
            (AnswerPart::End(report), Some(_)) => {
                let _ = to.send(Part::Start(Start::Miss(Miss::Nothing { oldest: report.oldest }))).await;
                return;
            }
            (AnswerPart::Failed(why), Some(_)) => {
                let _ = to.send(Part::Start(Start::Miss(Miss::Failed(why)))).await;
                return;
            }
            (AnswerPart::End(report), None) => {
                if let Some(why) = report.cut_short {
                    let _ = to.send(Part::More(Err(std::io::Error::other(why)))).await;
                }
                return;
            }
            (AnswerPart::Failed(why), None) => {
                let _ = to.send(Part::More(Err(std::io::Error::other(why)))).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// True if a pcapng stream's beginning holds a packet.
fn has_packet(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let (Some(kind), Some(length)) = (word(rest, 0), word(rest, 4)) {
        if kind == ENHANCED_PACKET {
            return true;
        }
        match rest.get((length as usize).max(12)..) {
            Some(more) => rest = more,
            None => return false,
        }
    }
    false
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().copied().map(u32::from_le_bytes)
}
