//! The end of a connection that is refused. A side that closes with something still unread resets the connection, and its
//! last words may be lost with it: so it reads on until the other side closes, and the other side, whose writing fails,
//! looks for what was said before.

use crate::frame::{FrameReader, WireFrame};
use std::io;
use std::time::Duration;
use thymus_record::message::ToAgent;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A peer that does not close within this time after it was refused is not waited for.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// Refuses, closes, and drops what still comes until the other side closes too; gives why, as an error. Masters and
/// vSensors do it in the same words.
pub(crate) async fn refuse<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    why: String,
    writer: &mut W,
    reader: &mut FrameReader<R>,
) -> io::Error {
    let refusal = WireFrame::control(&ToAgent::Refused { why: why.clone() }).encode();
    let close = async {
        writer.write_all(&refusal).await?;
        writer.shutdown().await?;
        while reader.next().await?.is_some() {}
        Ok::<(), io::Error>(())
    };
    let _ = timeout(LINGER_MAX, close).await;
    io::Error::other(why)
}

/// Why a connection is over: where writing failed, what the other side said before that.
pub(crate) async fn last_words<R: AsyncRead + Unpin>(error: io::Error, reader: &mut FrameReader<R>) -> io::Error {
    if !is_cut(&error) {
        return error;
    }
    let said = async {
        loop {
            match reader.next().await {
                Ok(Some(frame)) => {
                    if let Ok(ToAgent::Refused { why }) = serde_json::from_slice(&frame.payload) {
                        return io::Error::other(why);
                    }
                }
                Ok(None) => return error,
                Err(newer) => return newer,
            }
        }
    };
    timeout(LINGER_MAX, said).await.unwrap_or_else(|elapsed| io::Error::new(io::ErrorKind::ConnectionReset, elapsed))
}

/// True for an error of writing to a side that has closed.
pub(crate) fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;
    use thymus_record::message::ToSensor;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_refusal_is_heard_however_much_the_refused_one_says() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(socket.local_addr().unwrap()).await.unwrap();
        let refuse = async {
            let (theirs, _) = socket.accept().await.unwrap();
            let (reader, mut writer) = tokio::io::split(theirs);
            writer.write_all(&WireFrame::control(&ToAgent::Ping {}).encode()).await.unwrap();
            refuse("revoked".to_owned(), &mut writer, &mut FrameReader::new(reader)).await;
        };
        let speak = async {
            let frames = WireFrame { kind: Kind::Frames, stream: 0, payload: vec![7; 30_000] }.encode();
            loop {
                if let Err(error) = ours.write_all(&frames).await {
                    return error;
                }
            }
        };
        let (failed, ()) = tokio::join!(speak, refuse);
        assert!(is_cut(&failed), "{failed}");
        let error = last_words(failed, &mut FrameReader::new(ours)).await;
        assert_eq!(error.to_string(), "revoked");
    }

    #[tokio::test]
    async fn a_refusal_counts_where_writing_failed_and_other_ends_stay_what_they_are() {
        let why = "revoked".to_owned();
        let bytes = WireFrame::control(&ToSensor::Refused { why }).encode();
        let said = last_words(io::ErrorKind::BrokenPipe.into(), &mut FrameReader::new(bytes.as_slice())).await;
        assert_eq!(said.to_string(), "revoked", "a master's refusal looks the same");
        let other = last_words(io::Error::other("silent"), &mut FrameReader::new(bytes.as_slice())).await;
        assert_eq!(other.to_string(), "silent");
        let cut = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(is_cut(&last_words(cut(), &mut FrameReader::new(&[][..])).await));
        let torn = last_words(cut(), &mut FrameReader::new(&bytes[..5])).await;
        assert_eq!(torn.kind(), io::ErrorKind::UnexpectedEof, "it was stopped without a goodbye");
    }
}
