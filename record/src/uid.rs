//! Who a flow is: (sensor, boot, shard, sequence), never a random number, so that it costs almost nothing in a batch,
//! joins all tables, and makes delivery idempotent. Its text is `C` + 25 base62 digits of
//!
//! ```text
//! sensor u32 | boot u64 | shard u8 | sequence u40      18 bytes, big-endian
//! ```

use std::fmt;
use std::str::FromStr;

/// A sensor, numbered by its master; 0 where there is no master.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SensorId(pub u32);

/// A random value drawn at each process start, or fixed for capture files, never a counter.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct BootId(pub u64);

/// The identity of a flow. All rows of the flow, of every table, carry it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowUid {
    /// The sensor that saw the flow.
    pub sensor: SensorId,
    /// The sensor's run.
    pub boot: BootId,
    /// The flow shard.
    pub shard: u8,
    /// Counts the flows of the shard; 40 bits.
    pub sequence: u64,
}

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 25;

impl fmt::Display for FlowUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut high = (u128::from(self.sensor.0) << 64) | u128::from(self.boot.0);
        let mut low = (u128::from(self.shard) << 40) | u128::from(self.sequence & 0xff_ffff_ffff);
        let mut text = [b'0'; LENGTH];
        for digit in text.iter_mut().rev() {
            // One step of long division of the 144-bit number (high: 96 bits, low: 48 bits) by 62.
            let carry = ((high % 62) << 48) | low;
            high /= 62;
            low = carry / 62;
            *digit = DIGITS.get((carry % 62) as usize).copied().unwrap_or(b'0');
        }
        write!(f, "C{}", std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// The text is not a flow's uid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a flow uid: it is 'C' and 25 letters and digits, as /flows and conn.log show it")]
pub struct NotAUid;

impl FromStr for FlowUid {
    type Err = NotAUid;
    fn from_str(text: &str) -> Result<FlowUid, NotAUid> {
        let digits = text.strip_prefix('C').filter(|rest| rest.len() == LENGTH).ok_or(NotAUid)?;
        let (mut high, mut low) = (0u128, 0u128);
        for byte in digits.bytes() {
            let digit = DIGITS.iter().position(|&each| each == byte).ok_or(NotAUid)?;
            low = low * 62 + digit as u128;
            high = high * 62 + (low >> 48);
            low &= (1 << 48) - 1;
        }
        if high >> 96 != 0 {
            return Err(NotAUid);
        }
        let uid = || {
            Some(FlowUid {
                sensor: SensorId(u32::try_from(high >> 64).ok()?),
                boot: BootId(u64::try_from(high & u128::from(u64::MAX)).ok()?),
                shard: u8::try_from(low >> 40).ok()?,
                sequence: u64::try_from(low & 0xff_ffff_ffff).ok()?,
            })
        };
        uid().ok_or(NotAUid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_uid_survives_its_text(sensor: u32, boot: u64, shard: u8, sequence in 0u64..1 << 40) {
            let uid = FlowUid { sensor: SensorId(sensor), boot: BootId(boot), shard, sequence };
            prop_assert_eq!(uid.to_string().parse::<FlowUid>(), Ok(uid));
        }

        #[test]
        fn foreign_text_is_refused_without_panic(text in ".{0,40}") {
            let _ = text.parse::<FlowUid>();
        }
    }

    #[test]
    fn a_text_beyond_the_largest_uid_is_refused() {
        assert_eq!(format!("C{}", "z".repeat(25)).parse::<FlowUid>(), Err(NotAUid));
    }
}
