//! What an appliance is told and how it fits itself to its machine: settings come from VMware's guestinfo, a CD-ROM or
//! QEMU's fw_cfg, each is checked before it counts, and what is wrong is said in words that the console shows.
//! The scripts in `vm-images/rootfs` do the rest.

pub mod backdoor;
pub mod guestinfo;
pub mod source;
pub mod setting;
pub mod settings;
pub mod plan;
pub mod cards;
