//! Text → filter: words with their places, then descent bounded by [`DEPTH_MAX`].

use super::test::{Family, Net, SCTP, Side, Test};
use super::{DEPTH_MAX, Expression, Filter, FilterError, TESTS_MAX, TEXT_BYTES_MAX};
use thymus_record::column::Proto;
use thymus_record::{Address, Mac};

pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
    if text.len() > TEXT_BYTES_MAX {
        let message = format!("the filter has more than {TEXT_BYTES_MAX} bytes: split it");
        return Err(FilterError { position: TEXT_BYTES_MAX + 1, message });
    }
    let words = words(text);
    if words.is_empty() {
        return Ok(Filter { tests: Vec::new(), root: Expression::All(Vec::new()) });
    }
    let end = text.chars().count() + 1;
    let mut parser = Parser { words: &words, at: 0, end, tests: Vec::new(), kind: None };
    let root = parser.expression(0)?;
    match parser.peek() {
        None => Ok(Filter { tests: parser.tests, root }),
        Some(")") => parser.fail("this `)` closes nothing: remove it"),
        Some(word) => {
            let message = format!("`{word}` follows a complete expression: join it by `and` or `or`");
            parser.fail(&message)
        }
    }
}

/// A word and the character it begins at, from 1.
struct Word<'a> {
    text: &'a str,
    position: usize,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let (mut rest, mut position) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            _ if first.is_whitespace() => first.len_utf8(),
            '(' | ')' | '!' => 1,
            '&' | '|' => rest.find(|char| char != first).unwrap_or(rest.len()),
            _ => rest.find(|char: char| char.is_whitespace() || "()!&|".contains(char)).unwrap_or(rest.len()),
        };
        let (word, behind) = rest.split_at(length);
        if !first.is_whitespace() {
            words.push(Word { text: word, position });
        }
        position += word.chars().count();
        rest = behind;
    }
    words
}

/// What a value is, so that the next value may leave it out.
#[derive(Clone, Copy)]
enum Kind {
    Host(Option<Family>, Side),
    Net(Option<Family>, Side),
    Port(Option<Proto>, Side),
    Range(Option<Proto>, Side),
    Ether(Side),
}

/// What may stand in front of a kind.
#[derive(Clone, Copy)]
enum Prefix {
    Family(Family),
    Proto(Proto),
    Ether,
}

struct Parser<'a> {
    words: &'a [Word<'a>],
    at: usize,
    /// The position behind the text.
    end: usize,
    tests: Vec<Test>,
    kind: Option<Kind>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).map(|word| word.text)
    }

    fn fail<T>(&self, message: &str) -> Result<T, FilterError> {
        let position = self.words.get(self.at).map_or(self.end, |word| word.position);
        Err(FilterError { position, message: message.to_owned() })
    }

    /// True, and a word further, if the next word is one of these.
    fn takes(&mut self, words: &[&str]) -> bool {
        let takes = self.peek().is_some_and(|word| words.contains(&word));
        self.at += usize::from(takes);
        takes
    }

    fn expression(&mut self, depth: usize) -> Result<Expression, FilterError> {
        let mut left = self.term(depth)?;
        loop {
            let is_and = if self.takes(&["and", "&&"]) {
                true
            } else if self.takes(&["or", "||"]) {
                false
            } else {
                return Ok(left);
            };
            let right = self.term(depth)?;
            left = match (left, is_and) {
                (Expression::All(mut parts), true) => {
                    parts.push(right);
                    Expression::All(parts)
                }
                (Expression::Any(mut parts), false) => {
                    parts.push(right);
                    Expression::Any(parts)
                }
                (left, true) => Expression::All(vec![left, right]),
                (left, false) => Expression::Any(vec![left, right]),
            };
            if left.depth() > DEPTH_MAX {
                return self.fail("`and` and `or` alternate too often: group terms by parentheses");
            }
        }
    }

    fn term(&mut self, depth: usize) -> Result<Expression, FilterError> {
        if depth > DEPTH_MAX {
            return self.fail("parentheses or `not` are nested too deep: simplify the filter");
        }
        if self.takes(&["not", "!"]) {
            return Ok(Expression::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.takes(&["("]) {
            let inner = self.expression(depth + 1)?;
            if !self.takes(&[")"]) {
                return self.fail("a `)` is missing here");
            }
            return Ok(inner);
        }
        if self.tests.len() == TESTS_MAX {
            return self.fail(&format!("more than {TESTS_MAX} conditions: split the filter"));
        }
        let test = self.primitive()?;
        self.tests.push(test);
        Ok(Expression::Test(self.tests.len() - 1))
    }

    fn primitive(&mut self) -> Result<Test, FilterError> {
        let start = self.at;
        if self.takes(&["vlan"]) {
            return Ok(Test::Vlan(self.id(4095)?.and_then(|id| u16::try_from(id).ok())));
        }
        if self.takes(&["vni"]) {
            return Ok(Test::Vni(self.id(0x00ff_ffff)?));
        }
        if self.takes(&["less"]) {
            return Ok(Test::AtMost(self.number(u32::MAX)?));
        }
        if self.takes(&["greater"]) {
            return Ok(Test::AtLeast(self.number(u32::MAX)?));
        }
        let prefix = self.peek().and_then(prefix);
        self.at += usize::from(prefix.is_some());
        let side = match self.peek() {
            Some("src") => Side::Source,
            Some("dst") => Side::Target,
            _ => Side::Either,
        };
        self.at += usize::from(side != Side::Either);
        if self.takes(&["proto"]) {
            return self.proto(prefix, side);
        }
        let kind = match self.peek() {
            Some(word @ ("host" | "net" | "port" | "portrange")) => {
                let kind = self.named_kind(word, prefix, side)?;
                self.at += 1;
                kind
            }
            _ => match (prefix, side, self.kind) {
                (Some(Prefix::Family(family)), Side::Either, _) => return Ok(Test::Family(family)),
                (Some(Prefix::Proto(proto)), Side::Either, _) => {
                    let family = self.words.get(start).and_then(|word| family_of(word.text));
                    return Ok(Test::Proto { family, proto });
                }
                (None, Side::Either, Some(kind)) if self.peek().is_some_and(is_value) => kind,
                (None, Side::Either, None) if self.peek().is_some_and(|word| word.parse::<Address>().is_ok()) => {
                    Kind::Host(None, side)
                }
                (None, Side::Either, _) => return self.fail(&self.unknown()),
                // As in tcpdump, an end alone means a host.
                _ => self.named_kind("host", prefix, side)?,
            },
        };
        self.kind = Some(kind);
        self.value(kind)
    }

    fn unknown(&self) -> String {
        match self.peek() {
            None => "a condition is missing here, such as `host 192.0.2.1` or `tcp port 443`".to_owned(),
            Some(word) => format!(
                "`{word}` is not known: use host, net, port, portrange, proto, ether host, vlan, vni, less, greater, or \
                 a protocol such as ip, ip6, arp, tcp, udp, icmp"
            ),
        }
    }

    /// The kind that a word names behind these qualifiers.
    fn named_kind(&self, word: &str, prefix: Option<Prefix>, side: Side) -> Result<Kind, FilterError> {
        Ok(match (word, prefix) {
            ("host", Some(Prefix::Ether)) => Kind::Ether(side),
            ("host", None) => Kind::Host(None, side),
            ("host", Some(Prefix::Family(family))) => Kind::Host(Some(family), side),
            ("net", None) => Kind::Net(None, side),
            ("net", Some(Prefix::Family(family))) => Kind::Net(Some(family), side),
            ("port", None) => Kind::Port(None, side),
            ("port", Some(Prefix::Proto(proto @ (Proto::TCP | Proto::UDP | SCTP)))) => Kind::Port(Some(proto), side),
            ("portrange", None) => Kind::Range(None, side),
            ("portrange", Some(Prefix::Proto(proto @ (Proto::TCP | Proto::UDP | SCTP)))) => {
                Kind::Range(Some(proto), side)
            }
            ("port" | "portrange", _) => {
                return self.fail("only tcp, udp and sctp have ports: write e.g. `tcp port 80`");
            }
            ("net", _) => return self.fail("a net stands in ip, ip6 or arp: write e.g. `net 192.0.2.0/24`"),
            _ => return self.fail("a host stands in ip, ip6, arp or ether: write e.g. `host 192.0.2.1`"),
        })
    }

    fn proto(&mut self, prefix: Option<Prefix>, side: Side) -> Result<Test, FilterError> {
        let family = match (prefix, side) {
            (None, Side::Either) => None,
            (Some(Prefix::Family(family @ (Family::V4 | Family::V6))), Side::Either) => Some(family),
            _ => return self.fail("`proto` stands alone or behind ip or ip6: write e.g. `ip proto 89`"),
        };
        let name = self.peek().map(|word| word.trim_start_matches('\\'));
        if let Some(Prefix::Proto(proto)) = name.and_then(self::prefix) {
            self.at += 1;
            return Ok(Test::Proto { family, proto });
        }
        let number = self.number(255)?;
        Ok(Test::Proto { family, proto: Proto(u8::try_from(number).unwrap_or(u8::MAX)) })
    }

    /// The value of a kind, and so a whole primitive.
    fn value(&mut self, kind: Kind) -> Result<Test, FilterError> {
        let Some(word) = self.peek() else { return self.fail("a value is missing here") };
        let test = match kind {
            Kind::Host(family, side) => match word.parse::<Address>() {
                Ok(address) => whole(address).map(|net| Test::Host { family, side, net }),
                Err(_) if word.contains('/') => return self.fail("a host has no prefix length: write `net`"),
                Err(_) => {
                    return self.fail(&format!("`{word}` is no IP address; names are not resolved, write the address"));
                }
            },
            Kind::Net(family, side) => net(word).map(|net| Test::Host { family, side, net }),
            Kind::Port(proto, side) => port(word).map(|port| Test::Port { proto, side, low: port, high: port }),
            Kind::Range(proto, side) => word.split_once('-').and_then(|(low, high)| {
                let (low, high) = (port(low)?, port(high)?);
                (low <= high).then_some(Test::Port { proto, side, low, high })
            }),
            Kind::Ether(side) => mac(word).map(|mac| Test::Ether { side, mac }),
        };
        let Some(test) = test else {
            let cure = match kind {
                Kind::Host(..) => "an IP address",
                Kind::Net(..) => "a net: write e.g. 192.0.2.0/24 or 2001:db8::/32, without bits set behind the prefix",
                Kind::Port(..) => "a port: names are not resolved, write a number from 0 to 65535",
                Kind::Range(..) => "a range of ports: write e.g. 1000-1999",
                Kind::Ether(..) => "an Ethernet address: write e.g. 02:00:00:00:00:01",
            };
            return self.fail(&format!("`{word}` is not {cure}"));
        };
        self.at += 1;
        Ok(test)
    }

    /// A number that may be left out.
    fn id(&mut self, most: u32) -> Result<Option<u32>, FilterError> {
        match self.peek() {
            Some(word) if word.starts_with(|first: char| first.is_ascii_digit()) => self.number(most).map(Some),
            _ => Ok(None),
        }
    }

    fn number(&mut self, most: u32) -> Result<u32, FilterError> {
        let number = self.peek().and_then(|word| word.parse::<u32>().ok()).filter(|number| *number <= most);
        match number {
            Some(number) => {
                self.at += 1;
                Ok(number)
            }
            None => self.fail(&format!("write a number from 0 to {most} here")),
        }
    }
}

impl Expression {
    fn depth(&self) -> usize {
        match self {
            Expression::Test(_) => 0,
            Expression::Not(inner) => inner.depth() + 1,
            Expression::All(parts) | Expression::Any(parts) => {
                parts.iter().map(Expression::depth).max().unwrap_or(0) + 1
            }
        }
    }
}

fn prefix(word: &str) -> Option<Prefix> {
    Some(match word {
        "ip" => Prefix::Family(Family::V4),
        "ip6" => Prefix::Family(Family::V6),
        "arp" => Prefix::Family(Family::Arp),
        "ether" => Prefix::Ether,
        "tcp" => Prefix::Proto(Proto::TCP),
        "udp" => Prefix::Proto(Proto::UDP),
        "icmp" => Prefix::Proto(Proto::ICMP),
        "icmp6" => Prefix::Proto(Proto::ICMP6),
        "sctp" => Prefix::Proto(SCTP),
        "igmp" => Prefix::Proto(Proto(2)),
        "gre" => Prefix::Proto(Proto(47)),
        "esp" => Prefix::Proto(Proto(50)),
        _ => return None,
    })
}

/// The only family in which a protocol's name has its meaning.
fn family_of(word: &str) -> Option<Family> {
    match word {
        "icmp" | "igmp" => Some(Family::V4),
        "icmp6" => Some(Family::V6),
        _ => None,
    }
}

/// True for what can only be a value.
fn is_value(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_digit()) || word.contains(':')
}

fn whole(address: Address) -> Option<Net> {
    Net::new(address, if address.as_v4().is_some() { 32 } else { 128 })
}

/// `ADDRESS/BITS`; bits set behind the prefix are a mistake.
fn net(word: &str) -> Option<Net> {
    let Some((address, bits)) = word.split_once('/') else { return word.parse().ok().and_then(whole) };
    let address = address.parse::<Address>().ok()?;
    let net = Net::new(address, bits.parse().ok()?)?;
    (u128::from_be_bytes(address.0) == net.base).then_some(net)
}

/// A port's number; `+80` is none.
fn port(word: &str) -> Option<u16> {
    word.starts_with(|first: char| first.is_ascii_digit()).then(|| word.parse().ok())?
}

fn mac(word: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = word.split([':', '-']);
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(Mac(bytes))
}
