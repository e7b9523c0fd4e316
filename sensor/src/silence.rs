//! Why a capture port shows nothing, from what is known of it: it could not be opened; its link is down; nothing comes;
//! only what every member of a switch gets comes. Each with its cure in words.

use crate::sight::{ENOUGH, Link, Seen, Sight, Tags};
use std::sync::Arc;
use std::time::Duration;

/// A port without a packet for this long is silent; one that never showed other hosts' traffic within it is no span.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// A span that did work is given longer: at night nobody may speak but for broadcasts.
const QUIET_AFTER: Duration = Duration::from_secs(300);
/// Of frames that are no broadcasts an ordinary port too gets some: those whose target the switch has not learnt yet.
const FLOODED_ONE_IN: u64 = 20;

/// How a port was opened.
#[derive(Clone, Debug)]
pub enum Opened {
    /// It delivers, and is watched; nothing is known of some (OS-sensors).
    Yes(Option<Arc<Sight>>),
    /// It could not be, and why.
    No(String),
}

/// What is known of a port at one observation.
#[derive(Clone, Default, Debug)]
pub struct Look {
    /// Why it is not there at all.
    pub refused: Option<String>,
    /// Its link.
    pub link: Link,
    /// Frames since the observation before; `None` where nobody looks.
    pub seen: Option<Seen>,
    /// The card's address.
    pub address: String,
}

impl Opened {
    /// What is known now.
    pub fn look(&self) -> Look {
        match self {
            Opened::No(why) => Look { refused: Some(why.clone()), ..Look::default() },
            Opened::Yes(None) => Look::default(),
            Opened::Yes(Some(sight)) => {
                Look { link: sight.link(), seen: Some(sight.take()), address: sight.address(), ..Look::default() }
            }
        }
    }
}

/// Why a port shows no traffic of other hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Silence {
    /// It could not be opened.
    Refused(String),
    /// Nothing is connected, or it is switched off.
    NoLink(Link),
    /// No frame for so long, and what came before.
    Nothing(Duration, Link, Before),
    /// What came is what every member of a network gets.
    NoOthers(Seen, Duration),
}

/// What came before a port fell silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Before {
    /// Nothing at all.
    Nothing,
    /// What every member of a network gets.
    Broadcasts,
    /// Traffic of other hosts.
    Traffic,
    /// It is no card: OS-sensors.
    Agents,
}

/// What is remembered of a port.
#[derive(Clone, Debug)]
pub struct Listener {
    last_packet: Duration,
    received: bool,
    spanned: bool,
    since: Duration,
    seen: Seen,
    deaf: Option<(Seen, Duration)>,
}

impl Listener {
    /// From now on.
    pub fn new(now: Duration) -> Listener {
        Listener { last_packet: now, received: false, spanned: false, since: now, seen: Seen::default(), deaf: None }
    }

    /// Whether the port ever showed traffic between other hosts.
    pub fn has_spanned(&self) -> bool {
        self.spanned
    }

    /// Why it shows nothing, if it does not. `fresh` packets came since the observation before.
    pub fn observe(&mut self, now: Duration, fresh: u64, look: &Look) -> Option<Silence> {
        if let Some(why) = &look.refused {
            return Some(Silence::Refused(why.clone()));
        }
        if fresh > 0 {
            (self.last_packet, self.received) = (now, true);
        }
        if let Some(seen) = look.seen {
            self.weigh(now, seen);
        }
        let quiet = now.saturating_sub(self.last_packet);
        match (look.link, &self.deaf) {
            (Link::Down | Link::Off, _) if fresh == 0 => Some(Silence::NoLink(look.link)),
            _ if quiet >= SILENT_AFTER => Some(Silence::Nothing(quiet, look.link, self.before(look))),
            (_, Some((seen, span))) => Some(Silence::NoOthers(*seen, *span)),
            _ => None,
        }
    }

    fn before(&self, look: &Look) -> Before {
        match (look.seen, self.spanned, self.received) {
            (None, ..) => Before::Agents,
            (_, true, _) => Before::Traffic,
            (_, _, true) => Before::Broadcasts,
            _ => Before::Nothing,
        }
    }

    /// Whether what comes is a span's: judged anew after each period, and good at once where there is plenty.
    fn weigh(&mut self, now: Duration, seen: Seen) {
        self.seen = self.seen.and(seen);
        let is_span = |seen: Seen| seen.others > 0 && seen.others * FLOODED_ONE_IN >= seen.frames();
        let (span, patience) = (now.saturating_sub(self.since), if self.spanned { QUIET_AFTER } else { SILENT_AFTER });
        if seen.others >= ENOUGH && is_span(seen) {
            (self.spanned, self.deaf) = (true, None);
        } else if span < patience {
            return;
        } else if is_span(self.seen) {
            (self.spanned, self.deaf) = (true, None);
        } else if self.seen.frames() > 0 {
            self.deaf = Some((self.seen, span));
        }
        (self.since, self.seen) = (now, Seen::default());
    }
}

impl Silence {
    /// A word for the port's state.
    pub fn state(&self) -> &'static str {
        match self {
            Silence::Refused(_) => "not open",
            Silence::NoLink(Link::Off) => "switched off",
            Silence::NoLink(_) => "link down",
            Silence::Nothing(..) => "silent",
            Silence::NoOthers(..) => "broadcasts only",
        }
    }

    /// What is wrong and its cure.
    pub fn sentence(&self, name: &str, address: &str) -> String {
        let card = if address.is_empty() { name.to_owned() } else { format!("{name} ({address})") };
        match self {
            Silence::Refused(why) if why.starts_with(name) => why.clone(),
            Silence::Refused(why) => format!("{name}: {why}"),
            Silence::NoLink(Link::Off) => {
                format!("{card} is switched off: ip link set {} up", name.rsplit([':', '=']).next().unwrap_or(name))
            }
            Silence::NoLink(_) => format!(
                "{card} has no link: connect it (VMware: tick Connected at the network adapter with this address; KVM: \
                 virsh domif-setlink GUEST ADDRESS up; else cable and switch port)"
            ),
            Silence::Nothing(quiet, _, Before::Agents) => {
                format!("{card}: no OS-sensor has sent a packet for {} s: see what is said of each", quiet.as_secs())
            }
            Silence::Nothing(quiet, link, before) => nothing(&card, *quiet, *link, *before),
            Silence::NoOthers(seen, span) => no_others(&card, seen, *span),
        }
    }
}

fn nothing(card: &str, quiet: Duration, link: Link, before: Before) -> String {
    let link = match link {
        Link::Up => "its link is up",
        _ => "its link is not known",
    };
    let cure = match before {
        Before::Traffic => {
            "its span worked before: is the mirror gone, or was the card or a watched machine moved to another host or network?"
        }
        Before::Broadcasts => {
            "before that nothing but broadcasts came: it was never the mirror's target; make it that, or allow promiscuous \
             mode on its port group"
        }
        Before::Nothing | Before::Agents => {
            "not even a broadcast came: the card is on a network where nobody speaks; connect it to the port group, \
             bridge or switch port of the watched machines, and make that the mirror's target"
        }
    };
    format!("{card} has been silent for {} s; {link}; {cure}", quiet.as_secs())
}

fn no_others(card: &str, seen: &Seen, span: Duration) -> String {
    let tags = match seen.tags {
        Tags::One(0) | Tags::None => "without VLAN tags",
        Tags::One(_) => "of one VLAN alone",
        Tags::Several => "of several VLANs",
    };
    let vlan = match seen.tags {
        Tags::One(id) if id > 0 => format!(" ({id})"),
        _ => String::new(),
    };
    let rest = match (seen.own, seen.others) {
        (0, 0) => String::new(),
        (own, 0) => format!(" and {own} to or from the card itself"),
        (own, others) => format!(", {own} to or from the card itself and {others} between others"),
    };
    format!(
        "{card} gets no traffic of other hosts: in {} s {} broadcasts and multicasts{rest}, {tags}{vlan}: it is an \
         ordinary member of its network; allow promiscuous mode on its port group (VMware), let the bridge flood \
         (ageing_time 0), or make it the mirror's target; if the watched machines are on other VLANs, let it have those \
         too (VMware: VLAN ID 4095)",
        span.as_secs(),
        seen.group
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port observed every two seconds: the judgement after each look, given what comes in those two seconds.
    fn judged(looks: &[(u64, Look)], times: u64) -> (Listener, Option<Silence>) {
        let mut listener = Listener::new(Duration::ZERO);
        let mut silence = None;
        let mut second = 0;
        for (fresh, look) in looks {
            for _ in 0..times {
                second += 2;
                silence = listener.observe(Duration::from_secs(second), *fresh, look);
            }
        }
        (listener, silence)
    }

    fn look(link: Link, group: u64, own: u64, others: u64) -> (u64, Look) {
        let tags = if group + own + others > 0 { Tags::One(0) } else { Tags::None };
        let seen = Seen { group, own, others, tags };
        (seen.frames(), Look { link, seen: Some(seen), address: "02:00:00:00:00:09".to_owned(), ..Look::default() })
    }

    fn said(silence: Option<Silence>) -> String {
        silence.unwrap().sentence("dpdk:0000:00:06.0", "02:00:00:00:00:09")
    }

    #[test]
    fn a_link_that_is_down_is_told_at_once_and_a_port_that_is_off_apart_from_it() {
        let silence = judged(&[look(Link::Down, 0, 0, 0)], 1).1;
        assert_eq!(silence, Some(Silence::NoLink(Link::Down)));
        let words = said(silence);
        assert!(words.contains("(02:00:00:00:00:09) has no link: connect it"), "{words}");
        let off = judged(&[look(Link::Off, 0, 0, 0)], 1).1.unwrap();
        assert_eq!(off.state(), "switched off");
        assert!(off.sentence("af_packet:eth1", "").contains("ip link set eth1 up"));
        assert!(off.sentence("dpdk:net_af_packet0,iface=eth1", "").contains("ip link set eth1 up"));
    }

    #[test]
    fn nothing_at_all_is_told_after_half_a_minute_apart_from_a_span_that_worked() {
        assert_eq!(judged(&[look(Link::Up, 0, 0, 0)], 14).1, None);
        let words = said(judged(&[look(Link::Up, 0, 0, 0)], 16).1);
        assert!(words.contains("silent for 32 s; its link is up; not even a broadcast"), "{words}");
        let words = said(judged(&[look(Link::Up, 1, 0, 50), look(Link::Unknown, 0, 0, 0)], 20).1);
        assert!(words.contains("its link is not known") && words.contains("its span worked before"), "{words}");
        let words = said(judged(&[look(Link::Up, 1, 0, 0), look(Link::Up, 0, 0, 0)], 20).1);
        assert!(words.contains("nothing but broadcasts came: it was never"), "{words}");
        let agents = judged(&[(0, Look::default())], 16).1.unwrap();
        assert!(agents.sentence("agents", "").contains("no OS-sensor has sent a packet for 32 s"));
    }

    #[test]
    fn broadcasts_alone_are_an_ordinary_port_and_frames_of_its_own_are_named() {
        let silence = judged(&[look(Link::Up, 2, 0, 0)], 16).1;
        assert_eq!(silence.as_ref().map(Silence::state), Some("broadcasts only"));
        let words = said(silence);
        assert!(words.contains("in 30 s 30 broadcasts and multicasts, without VLAN tags"), "{words}");
        assert!(words.contains("promiscuous") && words.contains("ageing_time 0") && words.contains("4095"), "{words}");
        let words = said(judged(&[look(Link::Up, 0, 3, 0)], 16).1);
        assert!(words.contains("0 broadcasts and multicasts and 45 to or from the card itself"), "{words}");
        let mut tagged = look(Link::Up, 2, 0, 0);
        tagged.1.seen = tagged.1.seen.map(|seen| Seen { tags: Tags::One(12), ..seen });
        assert!(said(judged(&[tagged], 16).1).contains("of one VLAN alone (12)"));
    }

    #[test]
    fn what_a_switch_floods_now_and_then_makes_no_span() {
        let (listener, silence) = judged(&[look(Link::Up, 30, 0, 1)], 16);
        assert!(!listener.has_spanned());
        assert!(said(silence).contains("and 15 between others"));
    }

    #[test]
    fn a_span_of_few_packets_is_one_and_is_given_five_minutes_of_broadcasts() {
        let (listener, silence) = judged(&[look(Link::Up, 3, 0, 1)], 16);
        assert!(listener.has_spanned() && silence.is_none(), "{silence:?}");
        let night = [look(Link::Up, 3, 0, 1), look(Link::Up, 1, 0, 0)];
        assert_eq!(judged(&night, 100).1, None);
        assert!(matches!(judged(&night, 400).1, Some(Silence::NoOthers(..))));
    }

    #[test]
    fn a_mirror_that_is_made_ends_the_complaint_at_once() {
        let deaf = look(Link::Up, 3, 0, 0);
        let mut listener = judged(std::slice::from_ref(&deaf), 40).0;
        assert!(listener.observe(Duration::from_secs(82), deaf.0, &deaf.1).is_some());
        let (fresh, good) = look(Link::Up, 3, 0, ENOUGH);
        assert_eq!(listener.observe(Duration::from_secs(84), fresh, &good), None);
    }

    #[test]
    fn a_port_that_was_refused_says_why_and_nothing_else() {
        let refused = Opened::No("dpdk:0000:00:06.0: no such device".to_owned()).look();
        let silence = judged(&[(0, refused)], 20).1;
        assert_eq!(silence.as_ref().map(Silence::state), Some("not open"));
        assert_eq!(said(silence), "dpdk:0000:00:06.0: no such device");
    }
}
