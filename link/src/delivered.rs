//! What vSensors took of this run, so that what a run takes with it when it is killed can be told by the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use thymus_record::ledger::Count;
use thymus_record::message::Ended;

/// vSensors told apart; further ones count as the last of these.
const VSENSORS_MAX: usize = 64;
/// Runs that were ended without warning and are not told yet; the oldest is forgotten.
pub const ENDED_MAX: usize = 8;

#[derive(Default)]
struct State {
    run: Ended,
    on_disk: Count,
    untold: Vec<Ended>,
}

/// The account.
#[derive(Default)]
pub(crate) struct Delivered(Mutex<State>);

impl Delivered {
    /// Of this run; `untold` ended without warning before it.
    pub(crate) fn new(boot: u64, mut untold: Vec<Ended>) -> Delivered {
        untold.drain(..untold.len().saturating_sub(ENDED_MAX));
        Delivered(Mutex::new(State { run: Ended { boot, ..Ended::default() }, untold, ..State::default() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with this vSensor at this address begins; gives what it took of this run, and the runs that it is to
    /// be told.
    pub(crate) fn begin(&self, vsensor: u32, address: &str) -> (Count, Vec<Ended>) {
        let mut state = self.state();
        (state.run.last, state.run.at) = (vsensor, address.to_owned());
        let taken = state.run.taken.iter().find(|each| each.0 == vsensor).map(|each| each.1);
        (taken.unwrap_or_default(), state.untold.clone())
    }

    /// The vSensor heard all of the hello.
    pub(crate) fn told(&self) {
        self.state().untold.clear();
    }

    /// The vSensor took these.
    pub(crate) fn took(&self, count: Count) {
        let Ended { taken, last, .. } = &mut self.state().run;
        if let Some(known) = taken.iter_mut().find(|each| each.0 == *last) {
            known.1 += count;
        } else if taken.len() < VSENSORS_MAX {
            taken.push((*last, count));
        } else if let Some(known) = taken.last_mut() {
            known.1 += count;
        }
    }

    /// These went on disk.
    pub(crate) fn put_on_disk(&self, count: Count) {
        self.state().on_disk += count;
    }

    /// What the next run must tell if this one ends now, having sent so much: this run, if anything of it is not known to
    /// have been taken, behind those not told yet.
    pub(crate) fn if_ended(&self, sent: Count) -> Vec<Ended> {
        let state = self.state();
        let live = Count {
            packets: sent.packets.saturating_sub(state.on_disk.packets),
            bytes: sent.bytes.saturating_sub(state.on_disk.bytes),
        };
        let taken = sum(&state.run.taken);
        let is_open = live.packets > taken.packets;
        let this = is_open.then(|| Ended { sent: live, ..state.run.clone() });
        state.untold.iter().cloned().chain(this).collect()
    }
}

/// Of all vSensors together.
fn sum(taken: &[(u32, Count)]) -> Count {
    let mut sum = Count::default();
    taken.iter().for_each(|each| sum += each.1);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vsensor_is_told_what_it_took_and_who_ended_before_until_one_has_heard_it() {
        let count = |packets| Count { packets, bytes: packets * 100 };
        let before = |boot| Ended { boot, ..Ended::default() };
        let account = Delivered::new(9, (0..20).map(before).collect());
        assert_eq!(account.begin(1, "a"), (count(0), (12..20).map(before).collect()));
        account.took(count(3));
        account.took(count(4));
        assert_eq!(account.begin(2, "b").1.len(), ENDED_MAX, "nobody has heard it");
        account.told();
        account.took(count(5));
        account.put_on_disk(count(6));
        assert_eq!(account.begin(1, "a"), (count(7), vec![]));
        let ended =
            Ended { boot: 9, sent: count(94), taken: vec![(1, count(7)), (2, count(5))], last: 1, at: "a".to_owned() };
        assert_eq!(account.if_ended(count(100)), [ended]);
        assert_eq!(account.if_ended(count(6 + 12)), [], "all of it is on disk or was taken");
    }
}
