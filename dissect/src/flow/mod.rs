//! Packet → flow.
