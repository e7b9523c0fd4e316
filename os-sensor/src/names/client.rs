//! The capture's side of the names service: asks, never waits.

use super::service::{Lines, SOCKET};
use super::{Answer, Question};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A service that is not there is looked for this often.
const RETRY: Duration = Duration::from_secs(2);

/// The connection, where the service runs.
pub struct Client {
    path: PathBuf,
    stream: Option<UnixStream>,
    lines: Lines,
    tried: Option<Duration>,
}

impl Client {
    /// For the agent with this folder.
    pub fn new(state: &Path) -> Client {
        Client { path: state.join(SOCKET), stream: None, lines: Lines::default(), tried: None }
    }

    /// Looks for the service now and then.
    pub fn keep_connected(&mut self, now: Duration) {
        let is_due = self.tried.is_none_or(|tried| now.saturating_sub(tried) >= RETRY);
        if self.stream.is_none() && is_due {
            self.tried = Some(now);
            let stream = UnixStream::connect(&self.path).ok();
            self.stream = stream.filter(|stream| stream.set_nonblocking(true).is_ok());
            self.lines = Lines::default();
        }
    }

    /// The service is there.
    pub fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Asks; false if nobody is there to answer, or it is behind.
    pub fn ask(&mut self, question: &Question) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut line = serde_json::to_vec(question).unwrap_or_default();
        line.push(b'\n');
        match stream.write(&line) {
            Ok(written) if written == line.len() => true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            _ => {
                self.stream = None;
                false
            }
        }
    }

    /// The answers that are there.
    pub fn hear(&mut self) -> Vec<Answer> {
        let Some(stream) = &mut self.stream else { return Vec::new() };
        if !self.lines.read(stream) {
            self.stream = None;
        }
        self.lines.take()
    }

    /// To wait for.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }
}
