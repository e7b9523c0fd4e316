//! Which packets answer a question: time, filter, one flow, and the networks that the asker may see. Evaluated by the
//! same decoder that made the flows, so that a flow's packets are the flow's own.

use super::reader::Found;
use thymus_dissect::decode::{Content, Datagram, TcpFlags, Transport, decode};
use thymus_dissect::filter::Filter;
use thymus_dissect::flow::FlowKey;
use thymus_record::column::Proto;
use thymus_record::query::{FlowMatch, PcapQuery};
use thymus_record::{Address, NetworkPath, Scope, Time};

/// One flow, as packets show it.
struct Flow {
    key: FlowKey,
    network: NetworkPath,
    last: Option<Time>,
    over: bool,
}

/// A question, ready to be asked of packets in the order of time.
pub(crate) struct Matcher {
    from: Time,
    until: Time,
    filter: Option<Filter>,
    flow: Option<Flow>,
    scope: Scope,
}

impl Matcher {
    /// Reads a question; the error says what is wrong with it.
    pub(crate) fn new(query: &PcapQuery) -> Result<Matcher, String> {
        let filter = match query.filter.trim() {
            "" => None,
            text => Some(Filter::parse(text).map_err(|error| format!("filter: {error}"))?),
        };
        let scope = match &query.scope {
            None => Scope::All,
            Some(paths) => Scope::Within(paths.iter().map(|path| NetworkPath::from_text(path)).collect()),
        };
        Ok(Matcher {
            from: query.from.unwrap_or(Time(0)),
            until: query.until.unwrap_or(Time(u64::MAX)),
            filter,
            flow: query.flow.as_ref().map(flow_of).transpose()?,
            scope,
        })
    }

    /// The flow's hash in the index, if one flow is asked for.
    pub(crate) fn flow_hash(&self, key: [u64; 2]) -> Option<u64> {
        self.flow.as_ref().map(|flow| flow.key.hash(key))
    }

    /// True if the packet answers the question.
    pub(crate) fn matches(&mut self, found: &Found<'_>) -> bool {
        let frame = &found.frame;
        if frame.time < self.from || frame.time > self.until {
            return false;
        }
        if self.filter.as_ref().is_some_and(|filter| !filter.matches(frame)) {
            return false;
        }
        if self.flow.is_none() && self.scope == Scope::All {
            return true;
        }
        let packet = decode(frame);
        let layers: Vec<_> = packet.layers.iter().collect();
        let network = || NetworkPath::new(if found.group.is_empty() { "default" } else { found.group }, &layers);
        if let Some(flow) = &mut self.flow {
            let Content::Ip(datagram) = &packet.content else { return false };
            if !flow.holds(datagram, frame.time) || network() != flow.network {
                return false;
            }
        }
        self.scope == Scope::All || self.scope.allows(&network())
    }
}

impl Flow {
    fn holds(&mut self, datagram: &Datagram<'_>, time: Time) -> bool {
        let own = match FlowKey::of(0, datagram) {
            Some((key, _)) => key == self.key,
            // Fragments have no ports: those between the flow's hosts may be its.
            None => datagram.fragment.is_some() && self.is_between(datagram),
        };
        if !own || self.over {
            return false;
        }
        // A SYN behind the flow's last packet begins another one with the same ends.
        if let (Transport::Tcp(tcp), Some(last)) = (&datagram.transport, self.last) {
            self.over = time > last && tcp.flags.any(TcpFlags::SYN) && !tcp.flags.any(TcpFlags::ACK);
        }
        !self.over
    }

    fn is_between(&self, datagram: &Datagram<'_>) -> bool {
        let ends = (datagram.source, datagram.target);
        let proto = datagram.v6 || datagram.proto == self.key.proto;
        proto && (ends == (self.key.a, self.key.b) || ends == (self.key.b, self.key.a))
    }
}

fn flow_of(flow: &FlowMatch) -> Result<Flow, String> {
    let address = |text: &str| text.parse::<Address>().map_err(|_error| format!("'{text}' is no address"));
    let (a, b) = (address(&flow.a)?, address(&flow.b)?);
    let key = FlowKey::of_ends((a, flow.a_port), (b, flow.b_port), Proto(flow.proto));
    Ok(Flow { key, network: NetworkPath::from_text(&flow.network), last: flow.last, over: false })
}
