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
/// The capture leaves out what is spoken with a new address before anything is; a stuck one is not waited for.
const NOTICE_MAX: Duration = Duration::from_secs(1);
const NOTICE_EVERY: Duration = Duration::from_millis(5);
/// How long an address may take to answer; where there is another one, and where not.
const CONNECT_SHORT: Duration = Duration::from_millis(700);
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where the vSensors are, as their names were resolved last: what is spoken with them is never captured.
#[derive(Default)]
pub(crate) struct Peers {
    known: BTreeSet<SocketAddr>,
    news: News,
}

/// Whether the capture knows all of them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum News {
    #[default]
    None,
    /// It was told, and asks again when it has done what follows.
    Told,
    Untold,
}

impl Peers {
    /// All of them, if one came since the call before; the capture calls it before each look at its packets.
    pub(crate) fn take_new(&mut self) -> Option<Vec<SocketAddr>> {
        let is_new = self.news == News::Untold;
        self.news = if is_new { News::Told } else { News::None };
        is_new.then(|| self.known.iter().copied().collect())
    }

    /// Adds addresses; true if one was not known.
    fn add(&mut self, found: &[SocketAddr]) -> bool {
        if self.known.len() + found.len() > PEERS_MAX {
            self.known.clear();
        }
        let fresh = found.iter().filter(|address| self.known.insert(**address)).count() > 0;
        if fresh {
            self.news = News::Untold;
        }
        fresh
    }
}

/// Waits until the capture knows all addresses.
async fn noticed(peers: &Mutex<Peers>) {
    let wait = async {
        while peers.lock().unwrap_or_else(PoisonError::into_inner).news != News::None {
            tokio::time::sleep(NOTICE_EVERY).await;
        }
    };
    let _ = timeout(NOTICE_MAX, wait).await;
}

/// Connects to the first address that answers, beginning with number `at`, which is set to it. Names are resolved anew.
pub(crate) async fn dial(addresses: &[String], at: &mut usize, peers: &Mutex<Peers>) -> Option<TcpStream> {
    let patience = if addresses.len() > 1 { CONNECT_SHORT } else { CONNECT_MAX };
    for step in 0..addresses.len() {
        let number = (*at + step) % addresses.len();
        let address = addresses.get(number)?;
        let Ok(Ok(found)) = timeout(patience, lookup_host(address.as_str())).await else { continue };
        let found: Vec<SocketAddr> = found.collect();
        let is_fresh = peers.lock().unwrap_or_else(PoisonError::into_inner).add(&found);
        if is_fresh {
            noticed(peers).await;
        }
        if let Ok(Ok(stream)) = timeout(patience, TcpStream::connect(found.as_slice())).await {
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
            assert!(dial(&addresses, &mut at, &peers).await.is_some(), "a capture that is stuck is not waited for");
            assert_eq!(at, 1);
            assert!(dial(&addresses, &mut at, &peers).await.is_some());
            assert_eq!(peers.lock().unwrap().take_new().map(|peers: Vec<SocketAddr>| peers.len()), Some(2));
            assert!(peers.lock().unwrap().take_new().is_none());
            drop(there);
            assert!(dial(&addresses, &mut at, &peers).await.is_none());
        });
    }

    #[test]
    fn nothing_is_spoken_before_the_capture_has_acted_on_a_new_address() {
        block(async {
            let there = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (addresses, peers) = (vec![there.local_addr().unwrap().to_string()], Mutex::<Peers>::default());
            let (acts, came) = (AtomicBool::new(false), AtomicBool::new(false));
            let capture = async {
                while peers.lock().unwrap().take_new().is_none() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
                assert!(!came.load(Ordering::Relaxed), "it has only been told");
                acts.store(true, Ordering::Relaxed);
                assert!(peers.lock().unwrap().take_new().is_none());
            };
            let link = async {
                assert!(dial(&addresses, &mut 0, &peers).await.is_some());
                came.store(true, Ordering::Relaxed);
                assert!(acts.load(Ordering::Relaxed));
            };
            tokio::join!(capture, link);
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
