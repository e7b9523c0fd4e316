//! Which of several vSensors, and whether it still lives.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// Addresses remembered.
const PEERS_MAX: usize = 256;
/// Until the capture has noticed a new address.
const NOTICE: Duration = Duration::from_millis(60);
/// How long an address may take to answer; where there is another one, and where not.
const CONNECT_SHORT: Duration = Duration::from_millis(700);
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where the vSensors are, as their names were resolved last: what is spoken with them is never captured.
#[derive(Default)]
pub(crate) struct Peers {
    known: BTreeSet<SocketAddr>,
    is_new: bool,
}

impl Peers {
    /// All of them, if one came since the call before.
    pub(crate) fn take_new(&mut self) -> Option<Vec<SocketAddr>> {
        std::mem::take(&mut self.is_new).then(|| self.known.iter().copied().collect())
    }

    /// Adds addresses; true if one was not known.
    fn add(&mut self, found: &[SocketAddr]) -> bool {
        if self.known.len() + found.len() > PEERS_MAX {
            self.known.clear();
        }
        let fresh = found.iter().filter(|address| self.known.insert(**address)).count() > 0;
        self.is_new |= fresh;
        fresh
    }
}

/// Connects to the first address that answers, beginning with number `at`, which is set to it. Names are resolved anew.
pub(crate) async fn dial(addresses: &[String], at: &mut usize, peers: &Mutex<Peers>) -> Option<TcpStream> {
    let patience = if addresses.len() > 1 { CONNECT_SHORT } else { CONNECT_MAX };
    for step in 0..addresses.len() {
        let number = (*at + step) % addresses.len();
        let address = addresses.get(number)?;
        let connect = async {
            let found: Vec<SocketAddr> = lookup_host(address.as_str()).await.ok()?.collect();
            if peers.lock().unwrap_or_else(PoisonError::into_inner).add(&found) {
                // The capture looks for new ones before each look at its packets.
                tokio::time::sleep(NOTICE).await;
            }
            TcpStream::connect(found.as_slice()).await.ok()
        };
        if let Ok(Some(stream)) = timeout(patience, connect).await {
            *at = number;
            let _ = stream.set_nodelay(true);
            return Some(stream);
        }
    }
    None
}

/// Ends when nothing was heard for so long. A process that was stopped itself hears what came meanwhile first.
pub(crate) async fn silence(heard: &AtomicBool, patience: Duration) {
    let mut quiet = 0;
    while quiet < 4 {
        tokio::time::sleep(patience / 4).await;
        quiet = if heard.swap(false, Ordering::Relaxed) { 0 } else { quiet + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn block<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn the_next_address_is_tried_where_one_does_not_answer_and_stays_the_first_choice() {
        block(async {
            let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addresses = vec![gone.local_addr().unwrap().to_string(), there.local_addr().unwrap().to_string()];
            drop(gone);
            let (mut at, peers) = (0, Mutex::default());
            assert!(dial(&addresses, &mut at, &peers).await.is_some());
            assert_eq!(at, 1);
            assert!(dial(&addresses, &mut at, &peers).await.is_some());
            assert_eq!(peers.lock().unwrap().take_new().map(|peers: Vec<SocketAddr>| peers.len()), Some(2));
            assert!(peers.lock().unwrap().take_new().is_none());
            drop(there);
            assert!(dial(&addresses, &mut at, &peers).await.is_none());
        });
    }

    #[test]
    fn one_word_in_time_is_enough() {
        block(async {
            let heard = AtomicBool::new(false);
            let speak = async {
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    heard.store(true, Ordering::Relaxed);
                }
            };
            tokio::select! {
                () = silence(&heard, Duration::from_millis(80)) => panic!("it spoke in time"),
                () = speak => {}
            }
            assert!(timeout(Duration::from_secs(2), silence(&heard, Duration::from_millis(80))).await.is_ok());
        });
    }
}
