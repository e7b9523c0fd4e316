//! Columns: a table's fields as data, so that codec, JSON, Zeek logs and store schema come from one declaration.

use crate::{Address, Mac, Table, Time};
use std::borrow::Cow;

/// What a column holds. The number is the wire's type byte and never changes its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// An unsigned number up to 64 bits.
    Unsigned = 1,
    /// A packet time, or a time span, in nanoseconds.
    Time = 2,
    /// True or false.
    Flag = 3,
    /// UTF-8 text.
    Text = 4,
    /// An IP address.
    Address = 5,
    /// An Ethernet address.
    Mac = 6,
    /// A list of texts.
    Texts = 7,
    /// A list of unsigned numbers.
    Unsigneds = 8,
    /// An IP protocol number, shown by name.
    Proto = 9,
}

/// A field's value, lent by its row.
#[derive(Clone, PartialEq, Debug)]
pub enum Value<'a> {
    /// Not known, shown as `-` in Zeek logs.
    Null,
    /// See [`Kind::Unsigned`].
    Unsigned(u64),
    /// See [`Kind::Time`].
    Time(Time),
    /// See [`Kind::Flag`].
    Flag(bool),
    /// See [`Kind::Text`].
    Text(Cow<'a, str>),
    /// See [`Kind::Address`].
    Address(Address),
    /// See [`Kind::Mac`].
    Mac(Mac),
    /// See [`Kind::Texts`].
    Texts(Cow<'a, [String]>),
    /// See [`Kind::Unsigneds`].
    Unsigneds(Cow<'a, [u64]>),
    /// See [`Kind::Proto`].
    Proto(Proto),
}

/// An IP protocol number.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Proto(pub u8);

impl Proto {
    /// ICMP for IPv4 and IPv6 alike: [`Proto::name`] is `icmp` for both.
    pub const ICMP: Proto = Proto(1);
    /// TCP.
    pub const TCP: Proto = Proto(6);
    /// UDP.
    pub const UDP: Proto = Proto(17);
    /// ICMPv6.
    pub const ICMP6: Proto = Proto(58);

    /// Zeek's name of the protocol.
    pub fn name(self) -> &'static str {
        match self.0 {
            1 | 58 => "icmp",
            6 => "tcp",
            17 => "udp",
            _ => "unknown_transport",
        }
    }
}

/// One column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// The wire id, unique in its table, never reused.
    pub id: u16,
    /// The name in JSON and Zeek logs.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// True if a row may have no value here.
    pub nullable: bool,
    /// What it means, in a sentence.
    pub doc: &'static str,
}

/// A row of a table whose fields are columns.
pub trait Row: Default + Clone {
    /// Which table.
    const TABLE: Table;
    /// Its columns, in display order.
    const COLUMNS: &'static [Column];
    /// The value of the column at this position of [`Row::COLUMNS`]; `Null` beyond the last.
    fn value(&self, position: usize) -> Value<'_>;
    /// Sets the column at this position; false if the value does not fit the field.
    fn set(&mut self, position: usize, value: Value<'_>) -> bool;
}

/// A Rust type that a column can hold.
pub trait Field: Default {
    /// What the column holds.
    const KIND: Kind;
    /// True for `Option`.
    const NULLABLE: bool = false;
    /// The value, lent.
    fn value(&self) -> Value<'_>;
    /// The field from a value; `None` if it does not fit.
    fn from_value(value: Value<'_>) -> Option<Self>;
}

macro_rules! unsigned_fields {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const KIND: Kind = Kind::Unsigned;
            fn value(&self) -> Value<'_> { Value::Unsigned(u64::from(*self)) }
            fn from_value(value: Value<'_>) -> Option<Self> {
                if let Value::Unsigned(number) = value { number.try_into().ok() } else { None }
            }
        }
    )*};
}
unsigned_fields!(u8, u16, u32, u64);

macro_rules! plain_fields {
    ($($type:ty => $kind:ident),*) => {$(
        impl Field for $type {
            const KIND: Kind = Kind::$kind;
            fn value(&self) -> Value<'_> { Value::$kind(*self) }
            fn from_value(value: Value<'_>) -> Option<Self> {
                if let Value::$kind(inner) = value { Some(inner) } else { None }
            }
        }
    )*};
}
plain_fields!(Time => Time, bool => Flag, Address => Address, Mac => Mac, Proto => Proto);

impl Field for String {
    const KIND: Kind = Kind::Text;
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.into_owned()) } else { None }
    }
}

impl Field for Box<str> {
    const KIND: Kind = Kind::Text;
    fn value(&self) -> Value<'_> {
        Value::Text(Cow::Borrowed(self))
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Text(text) = value { Some(text.into()) } else { None }
    }
}

impl Field for Vec<String> {
    const KIND: Kind = Kind::Texts;
    fn value(&self) -> Value<'_> {
        Value::Texts(Cow::Borrowed(self))
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Texts(texts) = value { Some(texts.into_owned()) } else { None }
    }
}

impl Field for Vec<u64> {
    const KIND: Kind = Kind::Unsigneds;
    fn value(&self) -> Value<'_> {
        Value::Unsigneds(Cow::Borrowed(self))
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        if let Value::Unsigneds(numbers) = value { Some(numbers.into_owned()) } else { None }
    }
}

impl<F: Field> Field for Option<F> {
    const KIND: Kind = F::KIND;
    const NULLABLE: bool = true;
    fn value(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Field::value)
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            other => F::from_value(other).map(Some),
        }
    }
}

/// Declares an enum whose values are columns of text.
macro_rules! text_enum {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { #[default] $($(#[$each])* $variant),* }

        impl $name {
            /// The text in logs, JSON and batches.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
        }

        impl $crate::column::Field for $name {
            const KIND: $crate::Kind = $crate::Kind::Text;
            fn value(&self) -> $crate::Value<'_> {
                $crate::Value::Text(std::borrow::Cow::Borrowed(self.as_str()))
            }
            fn from_value(value: $crate::Value<'_>) -> Option<Self> {
                let $crate::Value::Text(text) = value else { return None };
                match text.as_ref() { $($text => Some($name::$variant),)* _ => None }
            }
        }
    };
}
pub(crate) use text_enum;

/// Declares a table: a struct, and its columns with wire id, name and meaning.
macro_rules! table {
    ($(#[doc = $doc:literal])* $table:ident: $row:ident {
        $($(#[doc = $meaning:literal])+ $id:literal $field:ident: $type:ty = $name:literal),* $(,)?
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Default, PartialEq, Debug)]
        pub struct $row { $($(#[doc = $meaning])+ pub $field: $type),* }

        impl $crate::Row for $row {
            const TABLE: $crate::Table = $crate::Table::$table;
            const COLUMNS: &'static [$crate::Column] = &[$($crate::Column {
                id: $id,
                name: $name,
                kind: <$type as $crate::Field>::KIND,
                nullable: <$type as $crate::Field>::NULLABLE,
                doc: concat!($($meaning),+),
            }),*];

            fn value(&self, position: usize) -> $crate::Value<'_> {
                let mut at = 0;
                $(
                    if position == at { return $crate::Field::value(&self.$field); }
                    at += 1;
                )*
                let _ = at;
                $crate::Value::Null
            }

            fn set(&mut self, position: usize, value: $crate::Value<'_>) -> bool {
                let mut at = 0;
                $(
                    if position == at {
                        return match <$type as $crate::Field>::from_value(value) {
                            Some(field) => { self.$field = field; true }
                            None => false,
                        };
                    }
                    at += 1;
                )*
                let _ = (at, value);
                false
            }
        }
    };
}
pub(crate) use table;
