//! OS-sensors as one more capture port: their frames, one copy each, dealt to the poll loop like those of a NIC; and who
//! of them sends what. A late worker makes the agents wait, and they shed and say so.

/// The agents, and what they are told.
mod group;
/// What they took with them.
mod runs;
/// What the master and they say to each other.
mod control;
/// Which of their rows are about others.
mod strangers;
/// Their batches on the way through.
mod passing;
/// Whose word counts on owners.
mod speaker;
/// Which agent belongs to which group.
mod homes;
/// Their frames for the poll loop.
mod source;

pub use group::{Group, GroupParts, group};
pub use source::{AgentSource, RelayNotes};
