//! Metadata mode, on and off as the policy says. A meter that cannot start says why, is tried again every second, and
//! what it should have taken is shed.

use crate::meter::{Meter, MeterParts};
use thymus_dissect::Frame;
use thymus_dissect::decode::Packet;
use thymus_dissect::flow::FlowKey;
use thymus_record::Time;
use thymus_record::ledger::Records;
use thymus_record::time::SECOND;

/// Between two tries to start.
const START_EVERY: u64 = SECOND;

/// The meter, once it was needed; it stays, empty, while the mode is another.
#[derive(Default)]
pub struct Metering {
    is_asked_for: bool,
    meter: Option<Meter>,
    parts: Option<MeterParts>,
    trouble: Option<String>,
    tried: Time,
    unwanted: u64,
}

impl Metering {
    /// How a meter is made.
    pub fn set_parts(&mut self, parts: MeterParts) {
        self.parts = Some(parts);
    }

    /// The master did not want so many rows.
    pub fn set_unwanted(&mut self, rows: u64) {
        self.unwanted = rows;
    }

    /// Turns metadata mode on or off. Off, all flows are handed over: whoever gets their packets goes on with them.
    pub fn switch(&mut self, on: bool, now: Time) {
        if self.is_asked_for && !on {
            self.meter.iter_mut().for_each(Meter::hand_over_all);
            self.trouble = None;
        }
        self.is_asked_for = on;
        if on && self.meter.is_none() {
            self.start(now);
        }
    }

    fn start(&mut self, now: Time) {
        self.tried = now;
        let started = match &self.parts {
            Some(parts) => Meter::start(parts.clone()).map_err(|error| error.to_string()),
            None => Err("its spool cannot be opened".to_owned()),
        };
        match started {
            Ok(meter) => (self.meter, self.trouble) = (Some(meter), None),
            Err(why) => self.trouble = Some(format!("no metadata can be made: {why}; packets are shed")),
        }
    }

    /// True while packets become rows.
    pub fn is_on(&self) -> bool {
        self.is_asked_for && self.meter.is_some()
    }

    /// A packet becomes part of a row; false where none can be made.
    pub fn take(&mut self, frame: &Frame<'_>, packet: Packet<'_>, offset: i64) -> bool {
        let taken = self.meter.as_mut().map(|meter| meter.take(frame, packet, offset));
        taken.is_some()
    }

    /// Time passes.
    pub fn turn(&mut self, now: Time, offset: i64) {
        if self.is_asked_for && self.meter.is_none() && now.since(self.tried) >= START_EVERY {
            self.start(now);
        }
        if let Some(meter) = &mut self.meter {
            meter.turn(now, offset);
        }
    }

    /// Another agent goes on with these flows.
    pub fn hand_over(&mut self, goes: impl FnMut(&FlowKey) -> bool) {
        if let Some(meter) = &mut self.meter {
            meter.hand_over(goes);
        }
    }

    /// Rows by fate, and bytes of batches.
    pub fn records(&self) -> (Records, u64) {
        self.meter.as_ref().map(|meter| meter.records(self.unwanted)).unwrap_or_default()
    }

    /// Why nothing can be made, in words.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    /// The end: all rows are on disk.
    pub fn finish(&mut self) {
        if let Some(meter) = self.meter.take() {
            meter.finish();
        }
    }
}
