//! Zeek's history of a connection: a letter an event, upper case from the originator.

use super::key::Side;

/// Longest history kept; what comes later adds nothing that counts.
const LEN_MAX: usize = 30;

/// Events that are told once a side; a retransmitted SYN, FIN or RST is not told again.
#[derive(Clone, Copy)]
pub(super) enum Once {
    /// SYN, with or without ACK.
    Syn = 1,
    /// FIN.
    Fin = 1 << 1,
    /// RST.
    Rst = 1 << 2,
    /// FIN and RST together.
    FinRst = 1 << 3,
    /// SYN with FIN or RST.
    Multi = 1 << 4,
    /// Payload.
    Data = 1 << 5,
    /// A pure acknowledgement.
    Ack = 1 << 6,
}

/// The letters so far.
#[derive(Clone, Copy, Default)]
pub(super) struct History {
    letters: [u8; LEN_MAX],
    len: u8,
    seen: [u8; 2],
}

impl History {
    /// The text.
    pub(super) fn as_str(&self) -> &str {
        self.letters
            .get(..usize::from(self.len))
            .and_then(|letters| std::str::from_utf8(letters).ok())
            .unwrap_or_default()
    }

    /// True if this letter is all of it.
    pub(super) fn is_only(&self, letter: u8) -> bool {
        self.len == 1 && self.letters[0] == letter
    }

    /// Adds a letter, given in upper case, of a side that is the originator or not.
    pub(super) fn add(&mut self, letter: u8, by_originator: bool) {
        if let Some(place) = self.letters.get_mut(usize::from(self.len)) {
            *place = if by_originator { letter } else { letter.to_ascii_lowercase() };
            self.len += 1;
        }
    }

    /// Adds a letter the first time that the side does this; true if it was done before.
    pub(super) fn check(&mut self, event: Once, letter: u8, side: Side, by_originator: bool) -> bool {
        let Some(seen) = self.seen.get_mut(side.at()) else { return true };
        if *seen & event as u8 != 0 {
            return true;
        }
        *seen |= event as u8;
        self.add(letter, by_originator);
        false
    }

    /// Begins anew with this text.
    pub(super) fn replace(&mut self, text: &[u8]) {
        self.len = 0;
        text.iter().for_each(|letter| self.add(*letter, true));
    }
}

/// True if the n-th event of a kind that repeats is told: the first, tenth, hundredth, …
pub(super) fn is_told(count: u32) -> bool {
    let mut power = 1u32;
    while power < count {
        power = power.saturating_mul(10);
    }
    power == count
}
