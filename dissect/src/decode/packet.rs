//! What decoding a frame gives: the innermost packet, the network layers and tunnel on the way to it, and what is odd.

use thymus_record::column::Proto;
use thymus_record::{Address, Layer, Mac};

/// Most network layers kept; deeper ones are noted as weird and no longer tell networks apart.
pub const LAYERS_MAX: usize = 6;

/// Network layers met on the way in, from the outermost. Kinds stand apart from ids, which halves the size.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Layers {
    ids: [u64; LAYERS_MAX],
    kinds: [u8; LAYERS_MAX],
    count: u8,
}

impl Layers {
    /// Adds a layer; false if there are too many.
    pub fn push(&mut self, layer: Layer) -> bool {
        let at = usize::from(self.count);
        let (Some(id), Some(kind)) = (self.ids.get_mut(at), self.kinds.get_mut(at)) else { return false };
        (*kind, *id) = match layer {
            Layer::Vlan(id) => (1, u64::from(id)),
            Layer::Vxlan(id) => (2, u64::from(id)),
            Layer::Geneve(id) => (3, u64::from(id)),
            Layer::Nvgre(id) => (4, u64::from(id)),
            Layer::Gwlb(id) => (5, id),
        };
        self.count += 1;
        true
    }

    /// The layers, outermost first.
    pub fn iter(&self) -> impl Iterator<Item = Layer> + '_ {
        self.kinds.iter().zip(&self.ids).take(usize::from(self.count)).filter_map(|(kind, id)| {
            Some(match kind {
                1 => Layer::Vlan(u16::try_from(*id).ok()?),
                2 => Layer::Vxlan(u32::try_from(*id).ok()?),
                3 => Layer::Geneve(u32::try_from(*id).ok()?),
                4 => Layer::Nvgre(u32::try_from(*id).ok()?),
                _ => Layer::Gwlb(*id),
            })
        })
    }

    /// The same layers: as `==`, but without looking at what is not there.
    #[inline]
    pub fn is(&self, other: &Layers) -> bool {
        self.count == other.count && (self.count == 0 || self == other)
    }

    /// True if there is none, as for most frames.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A kind of tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TunnelKind {
    /// IP in IP, either family (RFC 2003, RFC 2473, RFC 4213).
    IpInIp,
    /// GRE with IP inside (RFC 2784).
    Gre,
    /// GRE with Ethernet inside (transparent Ethernet bridging, NVGRE).
    GreEthernet,
    /// ERSPAN I, II or III.
    Erspan,
    /// VXLAN (RFC 7348).
    Vxlan,
    /// GENEVE (RFC 8926).
    Geneve,
    /// GTP-U (3GPP TS 29.281).
    Gtp,
    /// Teredo (RFC 4380).
    Teredo,
    /// PPPoE (RFC 2516).
    Pppoe,
}

impl TunnelKind {
    /// The name in flow rows.
    pub fn name(self) -> &'static str {
        match self {
            TunnelKind::IpInIp => "ip",
            TunnelKind::Gre => "gre",
            TunnelKind::GreEthernet => "gre-eth",
            TunnelKind::Erspan => "erspan",
            TunnelKind::Vxlan => "vxlan",
            TunnelKind::Geneve => "geneve",
            TunnelKind::Gtp => "gtp",
            TunnelKind::Teredo => "teredo",
            TunnelKind::Pppoe => "pppoe",
        }
    }
}

/// The innermost tunnel on the way to the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Its kind.
    pub kind: TunnelKind,
    /// VNI, key, session or TEID; 0 where it has none.
    pub id: u64,
    /// The outer packet's source.
    pub source: Address,
    /// The outer packet's target.
    pub target: Address,
    /// How many tunnels, this one included.
    pub depth: u8,
}

/// A frame, decoded as far as it can be.
#[derive(Clone, Copy, Default, Debug)]
pub struct Packet<'a> {
    /// Encapsulations that may tell networks apart.
    pub layers: Layers,
    /// The innermost tunnel, if any.
    pub tunnel: Option<Tunnel>,
    /// Source and target of the innermost Ethernet header.
    pub macs: Option<(Mac, Mac)>,
    /// What is inside.
    pub content: Content<'a>,
    /// What is odd about it.
    pub weird: Weird,
}

/// The innermost content.
#[derive(Clone, Copy, Default, Debug)]
pub enum Content<'a> {
    /// IPv4 or IPv6.
    Ip(Datagram<'a>),
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// Anything else, or a damaged head.
    #[default]
    Other,
}

/// ARP (RFC 826) for IPv4 over Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Sender's MAC.
    pub sender_mac: Mac,
    /// Sender's address.
    pub sender: Address,
    /// Target's MAC.
    pub target_mac: Mac,
    /// Target's address.
    pub target: Address,
}

/// An IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Source.
    pub source: Address,
    /// Target (the final one where a routing header names it).
    pub target: Address,
    /// True for IPv6.
    pub v6: bool,
    /// The transport protocol, behind extension headers.
    pub proto: Proto,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// IPv4 identification, or that of an IPv6 fragment header; 0 where there is none.
    pub id: u32,
    /// Length by the IP header, head included; where that is 0 (TSO), by the frame.
    pub ip_len: u32,
    /// Set for a fragment, the first one included.
    pub fragment: Option<Fragment>,
    /// The transport.
    pub transport: Transport<'a>,
    /// The whole IP packet as captured, heads included, trailing padding cut off.
    pub bytes: &'a [u8],
}

/// A fragment's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Offset in bytes.
    pub offset: u32,
    /// More fragments follow.
    pub more: bool,
    /// Where the fragment's data starts in [`Datagram::bytes`].
    pub data_at: u16,
}

/// What IP carries.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// TCP.
    Tcp(Tcp<'a>),
    /// UDP.
    Udp(Udp<'a>),
    /// ICMP or ICMPv6.
    Icmp(Icmp<'a>),
    /// Another protocol, with its payload.
    Other(&'a [u8]),
    /// A fragment: its data cannot be read before it is put together.
    Fragment,
    /// The transport's head is cut off or damaged.
    Damaged,
}

/// TCP flags (RFC 9293 §3.1).
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// URG.
    pub const URG: u8 = 0x20;

    /// True if any of these bits is set.
    pub fn any(self, bits: u8) -> bool {
        self.0 & bits != 0
    }
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    /// Source port.
    pub source: u16,
    /// Target port.
    pub target: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Window, unscaled.
    pub window: u16,
    /// Payload as captured.
    pub payload: &'a [u8],
    /// Payload length by the IP header: more than captured where the frame was cut.
    pub payload_len: u32,
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    /// Source port.
    pub source: u16,
    /// Target port.
    pub target: u16,
    /// Payload as captured.
    pub payload: &'a [u8],
    /// Payload length by the UDP header.
    pub payload_len: u32,
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What follows the 8-byte head.
    pub payload: &'a [u8],
    /// Its length by the IP header.
    pub payload_len: u32,
}

/// Oddities, one bit each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Weird(pub u32);

impl Weird {
    /// An Ethernet, VLAN, MPLS or PPPoE head is cut off.
    pub const LINK_TRUNCATED: Weird = Weird(1);
    /// An IP head is cut off or contradicts itself.
    pub const IP_DAMAGED: Weird = Weird(1 << 1);
    /// The IP length is more than the frame holds.
    pub const IP_TRUNCATED: Weird = Weird(1 << 2);
    /// A transport head is cut off or contradicts itself.
    pub const TRANSPORT_DAMAGED: Weird = Weird(1 << 3);
    /// More tunnels or headers than the cap.
    pub const TOO_DEEP: Weird = Weird(1 << 4);
    /// A tunnel's head is damaged: the packet counts as what carries it.
    pub const TUNNEL_DAMAGED: Weird = Weird(1 << 5);
    /// A link type that we cannot decode.
    pub const LINK_UNKNOWN: Weird = Weird(1 << 6);

    /// Names of all oddities, by bit; Zeek's names where Zeek has one.
    pub const NAMES: [&'static str; 7] = [
        "truncated_link_header",
        "invalid_IP_header_size",
        "truncated_IP",
        "bad_transport_header",
        "exceeded_tunnel_max_depth",
        "damaged_tunnel_header",
        "unknown_link_type",
    ];

    /// True if any of `other`'s oddities was seen.
    pub fn has(self, other: Weird) -> bool {
        self.0 & other.0 != 0
    }

    /// Adds another oddity.
    pub fn note(&mut self, other: Weird) {
        self.0 |= other.0;
    }
}
