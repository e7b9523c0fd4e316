//! Which agent sends a packet that several see: members, candidates, epochs, claims that are checked. Pure: no clock, no
//! I/O, the same answer everywhere for the same members.
//!
//! A member claims the addresses of its host. For a packet only members that alone in the group claim its source or its
//! target are candidates: they are known to see it. One candidate sends; of two, the rendezvous hash of the flow decides.
//! With none every witness sends, and the receiver removes what came before from another one. What a span sees of an
//! address all agents leave to it.
//!
//! The master keeps a [`Group`], a vSensor a [`Relay`], an agent a [`Member`]. Nothing that two saw is lost, because
//! what a member leaves to another it remembers for three seconds, and everybody is taken for gone within less: an agent
//! by its vSensor, a vSensor by the master, the master by its vSensors.
#![forbid(unsafe_code)]

/// What of a packet counts.
mod packet;
/// Who sends.
mod choice;
/// Who is there, and how that is told.
mod roster;
/// What was left to others, for a while.
mod shadow;
/// The agent.
mod member;
/// By what a copy is known.
mod digest;
/// What came from whom, so that a second witness's copy goes.
mod copies;
/// What a span sees of agents' addresses.
mod span;
/// The vSensor.
mod relay;
/// One measure of it, over the last turns.
mod balance;
/// What members say they left to each other, compared with what came.
mod claims;
/// The master.
mod group;

pub use choice::{Choice, Ends, Look, SPAN, Witness, claim_of, flow_hash, is_shared};
pub use claims::{Claims, Verdict};
pub use copies::Copies;
pub use digest::{digest, hash_of};
pub use group::{Group, Notes};
pub use member::{Member, Report, is_span};
pub use packet::{ends_of, ends_of_flow, passed_of};
pub use relay::{ByMember, GROUPS_MAX, LEASE, Out, Relay, Verdict as FrameVerdict};
pub use roster::{CLAIMS_MAX, MEMBERS_MAX, Roster};
pub use shadow::{Left, SHADOW, Shadow};
pub use span::{Counts, SpanEye, SpanWatch, Track, Wanted};
