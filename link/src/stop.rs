//! A thread with a runtime is told to stop, without looking every so often.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Told once, heard by one.
#[derive(Default)]
pub(crate) struct Stop {
    is_set: AtomicBool,
    told: Notify,
}

impl Stop {
    /// From any thread.
    pub(crate) fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.told.notify_one();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Acquire)
    }

    /// Waits until it is set; at once where it was.
    pub(crate) async fn wait(&self) {
        while !self.is_set() {
            self.told.notified().await;
        }
    }
}
