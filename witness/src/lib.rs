//! Which agent sends a packet that several see: members, candidates, epochs, claims that are checked. Pure: no clock, no
//! I/O, the same answer everywhere for the same members.
//!
//! A member claims the addresses of its host. For a packet only members that alone in the group claim its source or its
//! target are candidates: they are known to see it. One candidate sends; of two, the rendezvous hash of the flow decides.
//! With none every witness sends, and the receiver removes what came before from another one.
#![forbid(unsafe_code)]

/// Who sends.
mod choice;
/// What members say they left to each other, compared with what came.
mod ledger;
/// What came from whom, so that a second witness's copy goes.
mod copies;

/// What of a packet counts.
mod packet;

pub use choice::{Choice, Ends, Witness, claim_of, flow_hash};
pub use copies::Copies;
pub use ledger::{Claims, Verdict};
pub use packet::{ends_of, ends_of_flow, weight_of};
