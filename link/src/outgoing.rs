//! Parcels that the capture has handed over and the link's thread has not taken up yet. The thread is woken for several at
//! once, since to wake up costs it more than a parcel.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Parcels that wait to be sent, beside those that are sent and undecided ([`crate::undelivered`]); together 6 MiB.
const WAITING_MAX: usize = 48;
/// So many are not held back: the thread works on them while others are made.
const TOGETHER: usize = 16;

#[derive(Default)]
struct Queue {
    parcels: VecDeque<Vec<u8>>,
    /// Handed over since the thread was woken.
    held: usize,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Outgoing {
    queue: Mutex<Queue>,
    filled: Notify,
}

impl Outgoing {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a parcel; gives it back where too many wait.
    pub(crate) fn push(&self, parcel: Vec<u8>) -> Result<(), Vec<u8>> {
        let mut queue = self.queue();
        if queue.parcels.len() >= WAITING_MAX {
            return Err(parcel);
        }
        queue.parcels.push_back(parcel);
        queue.held += 1;
        let is_much = queue.held >= TOGETHER;
        drop(queue);
        if is_much {
            self.go();
        }
        Ok(())
    }

    /// Wakes the thread if anything was added.
    pub(crate) fn go(&self) {
        if std::mem::take(&mut self.queue().held) > 0 {
            self.filled.notify_one();
        }
    }

    /// The next one.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue();
        let parcel = queue.parcels.pop_front();
        if queue.parcels.is_empty() {
            queue.held = 0;
        }
        parcel
    }

    /// Waits until some may be there.
    pub(crate) async fn wait(&self) {
        self.filled.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    /// True if the thread would be woken now.
    fn is_woken(outgoing: &Outgoing) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut wait = pin!(outgoing.wait());
            poll_fn(|context| Poll::Ready(wait.as_mut().poll(context).is_ready())).await
        })
    }

    #[test]
    fn several_parcels_wake_the_thread_once_and_none_is_lost_or_taken_beyond_the_limit() {
        let outgoing = Outgoing::default();
        let parcel = |n: usize| vec![u8::try_from(n).unwrap()];
        (0..3).for_each(|n| outgoing.push(parcel(n)).unwrap());
        assert!(!is_woken(&outgoing), "they wait for others");
        outgoing.go();
        assert!(is_woken(&outgoing) && !is_woken(&outgoing));
        outgoing.go();
        assert!(!is_woken(&outgoing), "nothing was added");
        (0..3).for_each(|n| assert_eq!(outgoing.take(), Some(parcel(n))));
        outgoing.push(parcel(3)).unwrap();
        assert_eq!(outgoing.take(), Some(parcel(3)), "something else woke the thread");
        outgoing.go();
        assert!(!is_woken(&outgoing), "nothing waits");
        (0..TOGETHER).for_each(|n| outgoing.push(parcel(n)).unwrap());
        assert!(is_woken(&outgoing), "many go at once");
        (TOGETHER..WAITING_MAX).for_each(|n| outgoing.push(parcel(n)).unwrap());
        assert_eq!(outgoing.push(vec![7, 7]), Err(vec![7, 7]), "it comes back");
        let taken: Vec<_> = std::iter::from_fn(|| outgoing.take()).collect();
        assert_eq!(taken, (0..WAITING_MAX).map(parcel).collect::<Vec<_>>());
    }
}
