//! A query's tree, bound to a table's columns: names and values are checked once, rows are then only compared.

use crate::columns::{Cells, Layout};
use crate::language::{Expr, SyntaxError, Term, Test};
use thymus_record::{Address, FlowUid, Kind, Table, Time, Value};

/// Columns of a flow that are the same in each of its rows, so that they may filter rows before the fold.
const FLOW_KEYS: [&str; 6] = ["id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "network"];

/// What is told of who holds an end of a flow, behind `orig_` and `resp_`.
pub(crate) const OWNER: [&str; 9] =
    ["user", "user_id", "process", "pid", "executable", "cgroup", "container", "pod", "unnamed"];

/// What a row or a folded flow must be.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Filter {
    And(Vec<Filter>),
    Or(Vec<Filter>),
    Not(Box<Filter>),
    /// One of the columns passes the check.
    Any(Vec<usize>, Check),
    Uid(FlowUid),
}

/// What a value must be.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Check {
    /// A number or time within inclusive bounds.
    Number(u64, u64),
    /// An address within inclusive bounds.
    Address([u8; 16], [u8; 16]),
    /// A text, lower case, with `*` as wildcard if the flag is set.
    Text(String, bool),
    Flag(bool),
    /// A network path, or one below it.
    Network(String),
}

/// The virtual column of a folded flow: from its first to its last packet.
pub(crate) fn duration_place(layout: &Layout) -> usize {
    layout.columns.len()
}

impl Filter {
    /// Binds a query to a table.
    pub(crate) fn bind(expr: &Expr, layout: &Layout) -> Result<Filter, SyntaxError> {
        let all = |parts: &[Expr]| parts.iter().map(|part| Filter::bind(part, layout)).collect::<Result<Vec<_>, _>>();
        Ok(match expr {
            Expr::And(parts) => Filter::And(all(parts)?),
            Expr::Or(parts) => Filter::Or(all(parts)?),
            Expr::Not(inner) => Filter::Not(Box::new(Filter::bind(inner, layout)?)),
            Expr::Term(term) => bind_term(term, layout)?,
        })
    }

    /// True if the row passes.
    pub(crate) fn passes(&self, row: &impl Cells, layout: &Layout) -> bool {
        match self {
            Filter::And(parts) => parts.iter().all(|part| part.passes(row, layout)),
            Filter::Or(parts) => parts.iter().any(|part| part.passes(row, layout)),
            Filter::Not(inner) => !inner.passes(row, layout),
            Filter::Any(places, check) => places.iter().any(|&place| check.passes(&row.cell(place))),
            Filter::Uid(uid) => row.uid(layout) == *uid || row.flow_key(layout).1 == *uid,
        }
    }

    /// The part that every row of a passing flow passes by itself; `None` if nothing can be told from one row.
    pub(crate) fn of_rows(&self, layout: &Layout) -> Option<Filter> {
        if layout.table != Table::Flow {
            return Some(self.clone());
        }
        match self {
            Filter::And(parts) => {
                let parts: Vec<Filter> = parts.iter().filter_map(|part| part.of_rows(layout)).collect();
                (!parts.is_empty()).then_some(Filter::And(parts))
            }
            Filter::Or(parts) => parts.iter().map(|part| part.of_rows(layout)).collect::<Option<_>>().map(Filter::Or),
            Filter::Not(_) => self.is_exact(layout).then(|| self.clone()),
            Filter::Any(..) | Filter::Uid(_) => self.is_exact(layout).then(|| self.clone()),
        }
    }

    /// True if one row of a flow answers as the whole flow does.
    pub(crate) fn is_exact(&self, layout: &Layout) -> bool {
        match self {
            Filter::And(parts) | Filter::Or(parts) => parts.iter().all(|part| part.is_exact(layout)),
            Filter::Not(inner) => inner.is_exact(layout),
            Filter::Any(places, _) => {
                let is_key = |&place: &usize| layout.columns.get(place).is_some_and(|it| FLOW_KEYS.contains(&it.name));
                layout.table != Table::Flow || places.iter().all(is_key)
            }
            Filter::Uid(_) => true,
        }
    }

    /// The columns that it reads.
    pub(crate) fn places(&self, into: &mut Vec<usize>) {
        match self {
            Filter::And(parts) | Filter::Or(parts) => parts.iter().for_each(|part| part.places(into)),
            Filter::Not(inner) => inner.places(into),
            Filter::Any(places, _) => into.extend(places),
            Filter::Uid(_) => {}
        }
    }

    /// True if a group of rows may hold one that passes, as far as `may` can tell for one column and check.
    pub(crate) fn may_pass(&self, may: &impl Fn(Hint<'_>) -> bool) -> bool {
        match self {
            Filter::And(parts) => parts.iter().all(|part| part.may_pass(may)),
            Filter::Or(parts) => parts.iter().any(|part| part.may_pass(may)),
            Filter::Not(_) => true,
            Filter::Any(places, check) => places.iter().any(|&place| may(Hint::Cell(place, check))),
            Filter::Uid(uid) => may(Hint::Uid(uid)),
        }
    }

    /// Replaces each uid by what `by` gives.
    pub(crate) fn map_uids(&mut self, by: &mut impl FnMut(FlowUid) -> FlowUid) {
        match self {
            Filter::And(parts) | Filter::Or(parts) => parts.iter_mut().for_each(|part| part.map_uids(by)),
            Filter::Not(inner) => inner.map_uids(by),
            Filter::Any(..) => {}
            Filter::Uid(uid) => *uid = by(*uid),
        }
    }
}

/// What a group of rows is asked before it is read.
pub(crate) enum Hint<'a> {
    Cell(usize, &'a Check),
    Uid(&'a FlowUid),
}

impl Check {
    fn passes(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Check::Number(low, high), Value::Unsigned(number)) => (low..=high).contains(&number),
            (Check::Number(low, high), Value::Time(time)) => (low..=high).contains(&&time.0),
            (Check::Number(low, high), Value::Proto(proto)) => (low..=high).contains(&&u64::from(proto.0)),
            (Check::Number(low, high), Value::Unsigneds(all)) => {
                all.iter().any(|number| (low..=high).contains(&number))
            }
            (Check::Address(low, high), Value::Address(address)) => (low..=high).contains(&&address.0),
            (Check::Flag(wanted), Value::Flag(flag)) => wanted == flag,
            (Check::Text(pattern, wild), Value::Text(text)) => matches(pattern, *wild, text),
            (Check::Text(pattern, wild), Value::Texts(texts)) => texts.iter().any(|text| matches(pattern, *wild, text)),
            (Check::Text(pattern, wild), Value::Proto(proto)) => matches(pattern, *wild, proto.name()),
            (Check::Text(pattern, wild), Value::Mac(mac)) => matches(pattern, *wild, &mac.to_string()),
            (Check::Text(pattern, wild), Value::Address(address)) => matches(pattern, *wild, &address.to_string()),
            (Check::Text(pattern, wild), Value::Unsigned(number)) => matches(pattern, *wild, &number.to_string()),
            (Check::Network(root), Value::Text(path)) => {
                path.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            _ => false,
        }
    }
}

fn matches(pattern: &str, wild: bool, text: &str) -> bool {
    if !wild {
        return text.eq_ignore_ascii_case(pattern);
    }
    let text = text.to_ascii_lowercase();
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

fn bind_term(term: &Term, layout: &Layout) -> Result<Filter, SyntaxError> {
    let wrong = |what: String| SyntaxError { at: term.at, what };
    let Some(field) = &term.field else { return Ok(bare(term, layout)) };
    let both = |names: [&str; 2]| names.iter().filter_map(|name| layout.place(name)).collect::<Vec<usize>>();
    let places = match field.as_str() {
        "uid" => {
            let Test::Is { text, .. } = &term.test else { return Err(wrong("a uid has no order".into())) };
            return text
                .parse()
                .map(Filter::Uid)
                .map_err(|error: thymus_record::uid::NotAUid| wrong(error.to_string()));
        }
        "ip" if layout.place("address").is_some() => both(["address", "address"]),
        "ip" => both(["id.orig_h", "id.resp_h"]),
        "port" if layout.table != Table::Stats => both(["id.orig_p", "id.resp_p"]),
        "duration" if layout.table == Table::Flow => {
            return Ok(Filter::Any(vec![duration_place(layout)], number_check(&term.test, true).map_err(wrong)?));
        }
        "sensor" => {
            let name = text_check(&term.test).map(|check| Filter::Any(vec![layout.sensor_name()], check));
            let id = number_check(&term.test, false).map(|check| Filter::Any(vec![layout.sensor()], check));
            return match (name, id) {
                (Ok(name), Ok(id)) => Ok(Filter::Or(vec![name, id])),
                (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
                (Err(what), Err(_)) => Err(wrong(what)),
            };
        }
        name if layout.table == Table::Flow && OWNER.contains(&name) => {
            both([&format!("orig_{name}"), &format!("resp_{name}")])
        }
        name => layout.place(name).filter(|_| !is_inner(name)).into_iter().collect(),
    };
    let Some(column) = places.first().and_then(|&place| layout.columns.get(place)) else {
        return Err(wrong(format!("no field '{field}' in {}; it has {}", layout.table.name(), names(layout))));
    };
    let check = match (column.kind, &term.test) {
        _ if column.name == "network" => match &term.test {
            Test::Is { text, quoted } if *quoted || !text.contains('*') => Ok(Check::Network(text.clone())),
            test => text_check(test),
        },
        (Kind::Time, test) => number_check(test, true),
        (Kind::Unsigned | Kind::Unsigneds, Test::Is { text, quoted: false }) if text.contains('*') => {
            text_check(&term.test)
        }
        (Kind::Unsigned | Kind::Unsigneds, test) => number_check(test, false),
        (Kind::Proto, test) => number_check(test, false).or_else(|_| text_check(test)),
        (Kind::Flag, test) => flag_check(test),
        (Kind::Address, test) => address_check(test).or_else(|what| wildcard_check(test).ok_or(what)),
        (Kind::Text | Kind::Texts | Kind::Mac, test) => text_check(test),
    };
    check.map(|check| Filter::Any(places, check)).map_err(|what| wrong(format!("{field}: {what}")))
}

/// A bare word is sought in the table's addresses, uid and texts.
fn bare(term: &Term, layout: &Layout) -> Filter {
    let of = |wanted: &dyn Fn(Kind) -> bool| {
        let columns = layout.columns.iter().enumerate();
        columns.filter(|(_, it)| wanted(it.kind) && !is_inner(it.name)).map(|(place, _)| place).collect::<Vec<usize>>()
    };
    if let Ok(check) = address_check(&term.test) {
        return Filter::Any(of(&|kind| kind == Kind::Address), check);
    }
    let Test::Is { text, quoted } = &term.test else { return Filter::Or(Vec::new()) };
    if let Ok(uid) = text.parse() {
        return Filter::Uid(uid);
    }
    let pattern = if *quoted || text.contains('*') { text.clone() } else { format!("*{text}*") };
    let check = Check::Text(pattern.to_ascii_lowercase(), !quoted);
    Filter::Any(of(&|kind| matches!(kind, Kind::Text | Kind::Texts | Kind::Mac | Kind::Proto)), check)
}

/// Columns of the store itself, which no query names.
pub(crate) fn is_inner(name: &str) -> bool {
    matches!(name, "shard" | "sequence" | "ordinal" | "boot" | "primary" | "joined_ts" | "joined_uid" | "kind" | "from")
}

fn names(layout: &Layout) -> String {
    let mut names: Vec<&str> = layout.columns.iter().map(|it| it.name).filter(|name| !is_inner(name)).collect();
    names.extend(["uid", "ip", "port"]);
    names.extend(OWNER.iter().filter(|_| layout.table == Table::Flow));
    names.join(", ")
}

fn number_check(test: &Test, is_time: bool) -> Result<Check, String> {
    let number = |text: &str| -> Result<u64, String> {
        let read = if is_time { nanoseconds(text) } else { text.parse().ok() };
        read.ok_or_else(|| format!("'{text}' is not a number"))
    };
    match test {
        Test::Is { text, .. } => {
            number(text).map(|it| Check::Number(it, it.saturating_add(if is_time { 999 } else { 0 })))
        }
        Test::Between { low, high } => {
            let low = match low {
                Some((text, excluded)) => number(text)?.saturating_add(u64::from(*excluded)),
                None => 0,
            };
            let high = match high {
                Some((text, true)) => match number(text)?.checked_sub(1) {
                    Some(high) => high,
                    None => return Err("nothing is below 0".into()),
                },
                Some((text, false)) => number(text)?,
                None => u64::MAX,
            };
            Ok(Check::Number(low, high))
        }
    }
}

/// Seconds with up to 9 decimals, as nanoseconds.
pub(crate) fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
    if decimals.is_empty() || decimals.len() > 9 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u64 = format!("{decimals:0<9}").parse().ok()?;
    Some(Time::from_parts(seconds.parse().ok()?, fraction).0)
}

fn text_check(test: &Test) -> Result<Check, String> {
    match test {
        Test::Is { text, quoted } => Ok(Check::Text(text.to_ascii_lowercase(), !quoted && text.contains('*'))),
        Test::Between { .. } => Err("a text has no order; use * as a wildcard".into()),
    }
}

fn wildcard_check(test: &Test) -> Option<Check> {
    matches!(test, Test::Is { text, quoted: false } if text.contains('*')).then(|| text_check(test).ok()).flatten()
}

fn flag_check(test: &Test) -> Result<Check, String> {
    match test {
        Test::Is { text, .. } if matches!(text.as_str(), "true" | "T" | "yes" | "1") => Ok(Check::Flag(true)),
        Test::Is { text, .. } if matches!(text.as_str(), "false" | "F" | "no" | "0") => Ok(Check::Flag(false)),
        _ => Err("is true or false".into()),
    }
}

fn address_check(test: &Test) -> Result<Check, String> {
    let address =
        |text: &str| text.parse::<Address>().ok().ok_or_else(|| format!("'{text}' is not an address or a prefix"));
    match test {
        Test::Is { text, .. } => match text.split_once('/') {
            None => address(text).map(|it| Check::Address(it.0, it.0)),
            Some((base, bits)) => {
                let base = address(base)?;
                let family = if base.as_v4().is_some() { 32 } else { 128 };
                let bits: u32 = bits.parse().ok().filter(|&bits| bits <= family).ok_or("the prefix is too long")?;
                let host = 1u128.checked_shl(family - bits).map_or(u128::MAX, |size| size - 1);
                let number = u128::from_be_bytes(base.0);
                Ok(Check::Address((number & !host).to_be_bytes(), (number | host).to_be_bytes()))
            }
        },
        Test::Between { low: Some((low, false)), high: Some((high, false)) } => {
            Ok(Check::Address(address(low)?.0, address(high)?.0))
        }
        Test::Between { .. } => Err("an address range is written [low TO high]".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::parse;

    fn bind(text: &str, table: Table) -> Result<Filter, SyntaxError> {
        Filter::bind(&parse(text).unwrap().unwrap(), Layout::of(table))
    }

    #[test]
    fn a_wrong_field_is_named_with_the_known_ones() {
        let error = bind("proto:tcp nosuch:1", Table::Flow).unwrap_err().to_string();
        assert!(error.starts_with("query, character 11: no field 'nosuch' in flow; it has ts,"), "{error}");
        assert!(bind("query:x", Table::Flow).is_err() && bind("query:x", Table::Dns).is_ok());
    }

    #[test]
    fn wildcards_match_whole_texts_without_case() {
        for (pattern, text, holds) in [
            ("*.example", "A.Example", true),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("*", "", true),
            ("a*b*a", "aba", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, true, text), holds, "{pattern} {text}");
        }
    }

    #[test]
    fn only_what_each_row_of_a_flow_shares_filters_before_the_fold() {
        let layout = Layout::of(Table::Flow);
        let rows = |text| bind(text, Table::Flow).unwrap().of_rows(layout);
        assert_eq!(rows("orig_bytes:>5"), None);
        assert_eq!(rows("proto:tcp OR orig_bytes:>5"), None);
        assert_eq!(rows("proto:tcp orig_bytes:>5"), Some(Filter::And(vec![bind("proto:tcp", Table::Flow).unwrap()])));
        assert_eq!(rows("NOT (proto:tcp orig_bytes:>5)"), None);
    }

    #[test]
    fn prefixes_cover_their_addresses_in_both_families() {
        let low = |text: &str| text.parse::<Address>().unwrap().0;
        let check = |text: &str| address_check(&Test::Is { text: text.into(), quoted: false });
        assert_eq!(check("10.1.2.3/8"), Ok(Check::Address(low("10.0.0.0"), low("10.255.255.255"))));
        assert_eq!(check("::/0"), Ok(Check::Address([0; 16], [255; 16])));
        assert!(check("10.0.0.0/33").is_err());
    }
}
