//! Frame → packet. A [`Packet`] exists only for what was checked; its fields cannot fail.

mod packet;

pub use packet::{
    Arp, Content, Datagram, Fragment, Icmp, Layers, Packet, Tcp, TcpFlags, Transport, Tunnel, TunnelKind, Udp, Weird,
};
