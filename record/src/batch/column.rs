//! One column of a section.
//!
//! ```text
//! column   = id varint | kind u8 | nulls u8 (0 none, 1 bitmap follows) | [bitmap ⌈rows/8⌉ B] | length varint | data
//! numbers  = encoding u8: 0 varints · 1 zigzag varints of differences · 2 one varint for all
//! flags    = bitmap
//! things   = encoding u8: 0 each · 1 dictionary (count, entries, then a number column of positions)
//! lists    = numbers (lengths), then the items as one column of things or numbers
//! ```
//! Nulls hold no place in the data. A column of nothing but nulls is not written at all.

use super::BatchError;
use super::wire::{Reader, put_bytes, put_varint, unzigzag, varint_len, zigzag};
use crate::column::Proto;
use crate::{Address, Kind, Mac, Time, Value};
use foldhash::fast::RandomState;
use std::borrow::Cow;
use std::collections::HashMap;

/// Longest text or address in bytes.
const THING_MAX: usize = 64 * 1024;
/// Most items in all lists of a column together.
const ITEMS_MAX: usize = 1 << 20;

/// Things that show whether a dictionary is worth its while.
const SAMPLE: usize = 256;

const PLAIN: u8 = 0;
const DELTA: u8 = 1;
const CONSTANT: u8 = 2;
const DICTIONARY: u8 = 1;

/// Appends the column's nulls and data; nothing, and false, if all values are null.
pub(super) fn put_column(kind: Kind, values: &[Value<'_>], out: &mut Vec<u8>) -> bool {
    let present: Vec<&Value<'_>> = values.iter().filter(|value| **value != Value::Null).collect();
    if present.is_empty() {
        return false;
    }
    if present.len() == values.len() {
        out.push(0);
    } else {
        out.push(1);
        put_bits(values.iter().map(|value| *value != Value::Null), out);
    }
    let mut data = Vec::with_capacity(present.len() * 2);
    match kind {
        Kind::Unsigned | Kind::Time | Kind::Proto => put_numbers(present.iter().map(|value| number(value)), &mut data),
        Kind::Flag => put_bits(present.iter().map(|value| matches!(value, Value::Flag(true))), &mut data),
        Kind::Text | Kind::Address | Kind::Mac => put_things(present.iter().map(|value| thing(value)), &mut data),
        Kind::Texts => {
            put_numbers(present.iter().map(|value| items(value).0.len() as u64), &mut data);
            put_things(
                present.iter().flat_map(|value| items(value).0).map(|text| Thing::lent(text.as_bytes())),
                &mut data,
            );
        }
        Kind::Unsigneds => {
            put_numbers(present.iter().map(|value| items(value).1.len() as u64), &mut data);
            put_numbers(present.iter().flat_map(|value| items(value).1.iter().copied()), &mut data);
        }
    }
    put_bytes(out, &data);
    true
}

fn number(value: &Value<'_>) -> u64 {
    match value {
        Value::Unsigned(number) => *number,
        Value::Time(time) => time.0,
        Value::Proto(proto) => u64::from(proto.0),
        _ => 0,
    }
}

fn items<'a>(value: &'a Value<'_>) -> (&'a [String], &'a [u64]) {
    match value {
        Value::Texts(texts) => (texts, &[]),
        Value::Unsigneds(numbers) => (&[], numbers),
        _ => (&[], &[]),
    }
}

/// The bytes of a text or an address; an IPv4 address is four.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Thing<'a> {
    Lent(&'a [u8]),
    Short([u8; 4]),
}

impl<'a> Thing<'a> {
    fn lent(bytes: &'a [u8]) -> Thing<'a> {
        Thing::Lent(bytes)
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Thing::Lent(bytes) => bytes,
            Thing::Short(bytes) => bytes,
        }
    }
}

fn thing<'a>(value: &'a Value<'_>) -> Thing<'a> {
    match value {
        Value::Text(text) => Thing::Lent(text.as_bytes()),
        Value::Address(address) => address.as_v4().map_or(Thing::Lent(&address.0), Thing::Short),
        Value::Mac(mac) => Thing::Lent(&mac.0),
        _ => Thing::Lent(&[]),
    }
}

fn put_bits(bits: impl Iterator<Item = bool>, out: &mut Vec<u8>) {
    let (mut byte, mut count) = (0u8, 0u8);
    for bit in bits {
        byte |= u8::from(bit) << count;
        count += 1;
        if count == 8 {
            out.push(byte);
            (byte, count) = (0, 0);
        }
    }
    if count > 0 {
        out.push(byte);
    }
}

fn put_numbers(numbers: impl Iterator<Item = u64> + Clone, out: &mut Vec<u8>) {
    let mut first = None;
    let (mut plain, mut delta, mut before, mut constant) = (0, 0, 0u64, true);
    for number in numbers.clone() {
        constant &= *first.get_or_insert(number) == number;
        plain += varint_len(number);
        delta += varint_len(zigzag(number.wrapping_sub(before).cast_signed()));
        before = number;
    }
    if let (true, Some(number)) = (constant, first) {
        out.push(CONSTANT);
        put_varint(out, number);
    } else if delta < plain {
        out.push(DELTA);
        let mut before = 0u64;
        for number in numbers {
            put_varint(out, zigzag(number.wrapping_sub(before).cast_signed()));
            before = number;
        }
    } else {
        out.push(PLAIN);
        numbers.for_each(|number| put_varint(out, number));
    }
}

fn put_things<'a>(things: impl Iterator<Item = Thing<'a>> + Clone, out: &mut Vec<u8>) {
    let mut positions: HashMap<Thing<'a>, u64, RandomState> = HashMap::default();
    let (mut order, mut indices) = (Vec::new(), Vec::new());
    for thing in things.clone() {
        let next = positions.len() as u64;
        let position = *positions.entry(thing).or_insert(next);
        if position == next {
            order.push(thing);
        }
        indices.push(position);
        if indices.len() == SAMPLE && is_diverse(&order, &indices) {
            break;
        }
    }
    if is_diverse(&order, &indices) {
        out.push(PLAIN);
        things.for_each(|thing| put_bytes(out, thing.bytes()));
        return;
    }
    out.push(DICTIONARY);
    put_varint(out, order.len() as u64);
    order.iter().for_each(|thing| put_bytes(out, thing.bytes()));
    put_numbers(indices.iter().copied(), out);
}

/// Too few things come again for a dictionary.
fn is_diverse(order: &[Thing<'_>], indices: &[u64]) -> bool {
    order.len() * 4 > indices.len() * 3
}

/// Reads a column of `rows` values and hands each, in order, to `each`.
pub(super) fn take_column(
    kind: Kind,
    rows: usize,
    reader: &mut Reader<'_>,
    mut each: impl FnMut(Value<'static>) -> Result<(), BatchError>,
) -> Result<(), BatchError> {
    let nulls = if reader.byte()? == 1 { Some(take_bits(rows, reader)?) } else { None };
    let present = nulls.as_ref().map_or(rows, |bits| bits.iter().filter(|bit| **bit).count());
    let mut data = Reader::new(reader.bytes()?, "column");
    let mut values = take_values(kind, present, &mut data)?.into_iter();
    for row in 0..rows {
        let is_there = nulls.as_ref().is_none_or(|bits| bits.get(row).copied().unwrap_or(false));
        let value = if is_there { values.next().ok_or(BatchError::Truncated("column"))? } else { Value::Null };
        each(value)?;
    }
    Ok(())
}

/// Skips a column that this build does not know.
pub(super) fn skip_column(rows: usize, reader: &mut Reader<'_>) -> Result<(), BatchError> {
    if reader.byte()? == 1 {
        reader.take(rows.div_ceil(8))?;
    }
    reader.bytes().map(|_| ())
}

fn take_values(kind: Kind, count: usize, data: &mut Reader<'_>) -> Result<Vec<Value<'static>>, BatchError> {
    Ok(match kind {
        Kind::Unsigned => take_numbers(count, data)?.into_iter().map(Value::Unsigned).collect(),
        Kind::Time => take_numbers(count, data)?.into_iter().map(|number| Value::Time(Time(number))).collect(),
        Kind::Proto => {
            take_numbers(count, data)?.into_iter().map(|number| Value::Proto(Proto(number.to_le_bytes()[0]))).collect()
        }
        Kind::Flag => take_bits(count, data)?.into_iter().map(Value::Flag).collect(),
        Kind::Text => take_things(count, data, text)?.into_iter().map(|text| Value::Text(Cow::Owned(text))).collect(),
        Kind::Address => take_things(count, data, address)?.into_iter().map(Value::Address).collect(),
        Kind::Mac => take_things(count, data, mac)?.into_iter().map(Value::Mac).collect(),
        Kind::Texts => {
            let (lengths, total) = take_lengths(count, data)?;
            let mut texts = take_things(total, data, text)?.into_iter();
            let take = |length: u64| {
                Value::Texts(Cow::Owned(texts.by_ref().take(usize::try_from(length).unwrap_or(0)).collect()))
            };
            lengths.into_iter().map(take).collect()
        }
        Kind::Unsigneds => {
            let (lengths, total) = take_lengths(count, data)?;
            let mut numbers = take_numbers(total, data)?.into_iter();
            let take = |length: u64| {
                Value::Unsigneds(Cow::Owned(numbers.by_ref().take(usize::try_from(length).unwrap_or(0)).collect()))
            };
            lengths.into_iter().map(take).collect()
        }
    })
}

fn take_lengths(count: usize, data: &mut Reader<'_>) -> Result<(Vec<u64>, usize), BatchError> {
    let lengths = take_numbers(count, data)?;
    let claimed = lengths.iter().fold(0u64, |sum, length| sum.saturating_add(*length));
    match usize::try_from(claimed) {
        Ok(total) if total <= ITEMS_MAX => Ok((lengths, total)),
        _ => Err(BatchError::Oversized { what: "list items:", claimed, bound: ITEMS_MAX as u64 }),
    }
}

fn take_bits(count: usize, data: &mut Reader<'_>) -> Result<Vec<bool>, BatchError> {
    let bytes = data.take(count.div_ceil(8))?;
    Ok(bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1)).take(count).collect())
}

/// Reads `count` numbers. `count` is bounded by the caller; memory is taken only as bytes back it up, or for a constant.
fn take_numbers(count: usize, data: &mut Reader<'_>) -> Result<Vec<u64>, BatchError> {
    if count == 0 && data.is_empty() {
        return Ok(Vec::new());
    }
    match data.byte()? {
        CONSTANT => {
            let number = data.varint()?;
            Ok(vec![number; count])
        }
        PLAIN => (0..count).map(|_| data.varint()).collect(),
        DELTA => {
            let mut before = 0u64;
            (0..count)
                .map(|_| {
                    before = before.wrapping_add(unzigzag(data.varint()?).cast_unsigned());
                    Ok(before)
                })
                .collect()
        }
        other => Err(BatchError::Oversized { what: "a number encoding", claimed: u64::from(other), bound: 2 }),
    }
}

fn take_things<T: Clone>(
    count: usize,
    data: &mut Reader<'_>,
    make: impl Fn(&[u8]) -> Result<T, BatchError>,
) -> Result<Vec<T>, BatchError> {
    if count == 0 && data.is_empty() {
        return Ok(Vec::new());
    }
    let take = |data: &mut Reader<'_>| {
        let bytes = data.bytes()?;
        if bytes.len() > THING_MAX {
            let claimed = bytes.len() as u64;
            return Err(BatchError::Oversized { what: "a text of", claimed, bound: THING_MAX as u64 });
        }
        make(bytes)
    };
    if data.byte()? == PLAIN {
        return (0..count).map(|_| take(data)).collect();
    }
    let entries = data.count("dictionary entries:", count)?;
    let dictionary = (0..entries).map(|_| take(data)).collect::<Result<Vec<T>, _>>()?;
    let find = |position: u64| {
        let entry = usize::try_from(position).ok().and_then(|position| dictionary.get(position));
        entry.cloned().ok_or(BatchError::Truncated("dictionary"))
    };
    take_numbers(count, data)?.into_iter().map(find).collect()
}

fn text(bytes: &[u8]) -> Result<String, BatchError> {
    std::str::from_utf8(bytes).map(str::to_owned).ok().ok_or(BatchError::Misfit("text"))
}

fn address(bytes: &[u8]) -> Result<Address, BatchError> {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(v4), _) => Ok(Address::from_v4(v4)),
        (_, Ok(v6)) => Ok(Address(v6)),
        _ => Err(BatchError::Misfit("address")),
    }
}

fn mac(bytes: &[u8]) -> Result<Mac, BatchError> {
    bytes.try_into().map(Mac).ok().ok_or(BatchError::Misfit("mac"))
}
