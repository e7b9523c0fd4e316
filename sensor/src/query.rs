//! `thymus-sensor query`: packets of a ring as pcapng.

use crate::clock::{Clock, SystemClock};
use crate::ring::{PcapngWriter, RingReader};
use clap::Args;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use thymus_record::Time;
use thymus_record::query::{PcapQuery, QueryReport};
use thymus_record::time::SECOND;

/// Gives packets of a ring, also while a sensor writes it.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// A packet filter: host, net, port, portrange, protocol names, vlan, vni, and, or, not.
    filter: Vec<String>,
    /// The ring's folder.
    #[arg(long)]
    ring: PathBuf,
    /// From this time on: RFC 3339, epoch seconds, or -15m.
    #[arg(long, allow_hyphen_values = true)]
    since: Option<String>,
    /// Until this time.
    #[arg(long, allow_hyphen_values = true)]
    until: Option<String>,
    /// Where the pcapng goes; '-' is stdout.
    #[arg(short = 'w', long = "write", default_value = "-")]
    write: PathBuf,
}

/// Runs the verb.
pub fn run(args: &QueryArgs) -> ExitCode {
    match answer(args) {
        Ok(report) => {
            eprintln!(
                "{} packets, {} bytes{}",
                report.packets,
                report.bytes,
                report.cut_short.map_or(String::new(), |why| format!("; {why}"))
            );
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("thymus-sensor query: {why}");
            ExitCode::FAILURE
        }
    }
}

fn answer(args: &QueryArgs) -> Result<QueryReport, String> {
    let now = SystemClock::default().wall();
    let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
    let query = PcapQuery {
        from: time(&args.since)?,
        until: time(&args.until)?,
        filter: args.filter.join(" "),
        ..PcapQuery::default()
    };
    let reader = RingReader::open(&args.ring).map_err(|error| error.to_string())?;
    let to_stdout = args.write.as_os_str() == "-";
    let said = |error: io::Error| format!("{}: {error}", args.write.display());
    let mut out: Box<dyn Write> = if to_stdout {
        Box::new(BufWriter::new(io::stdout().lock()))
    } else {
        Box::new(BufWriter::new(File::create(&args.write).map_err(said)?))
    };
    let mut writer = PcapngWriter::new(&crate::pipeline::host_name());
    let mut failed = None;
    let report = reader.query(&query, |found| {
        writer.packet(found);
        failed = out.write_all(&writer.out).err();
        writer.out.clear();
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(said(error));
    }
    writer.end(&report);
    out.write_all(&writer.out).and_then(|()| out.flush()).map_err(said)?;
    Ok(report)
}

/// A time: RFC 3339, epoch seconds, or a span before now.
pub fn parse_time(text: &str, now: Time) -> Result<Time, String> {
    let wrong = || format!("'{text}' is no time: write 2026-11-24T09:30:00Z, epoch seconds, or -15m");
    if let Some(span) = text.strip_prefix('-') {
        let split = span.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(span.len());
        let (digits, unit) = span.split_at(split);
        let factor: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let span =
            digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor * SECOND)).ok_or_else(wrong)?;
        return Ok(now - span);
    }
    if text.contains('T') {
        return rfc3339(text).ok_or_else(wrong);
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part: String = part.chars().chain("000000000".chars()).take(9).collect();
    match (whole.parse::<u64>(), part.parse::<u64>()) {
        (Ok(whole), Ok(part)) if whole < 18_000_000_000 => Ok(Time::from_parts(whole, part)),
        _ => Err(wrong()),
    }
}

/// `YYYY-MM-DDTHH:MM:SS[.fraction](Z|+HH:MM|-HH:MM)`
fn rfc3339(text: &str) -> Option<Time> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?;
    let zone = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone);
    let nanoseconds: String = fraction.trim_start_matches('.').chars().chain("000000000".chars()).take(9).collect();
    let offset = match zone {
        "Z" => 0,
        zone => {
            let minutes = zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
    };
    // Days since 1970 by the civil calendar, years counted from March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute - offset) * 60 + second;
    let seconds = u64::try_from(seconds).ok().filter(|_| (1..=12).contains(&month) && (1..=31).contains(&day))?;
    Some(Time::from_parts(seconds, nanoseconds.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        let now = Time(2_000_000_000 * SECOND);
        assert_eq!(parse_time("2023-11-14T22:13:20Z", now), Ok(Time(1_700_000_000 * SECOND)));
        assert_eq!(parse_time("2023-11-14T23:13:20.5+01:00", now), Ok(Time(1_700_000_000 * SECOND + SECOND / 2)));
        assert_eq!(parse_time("1700000000.25", now), Ok(Time(1_700_000_000 * SECOND + SECOND / 4)));
        assert_eq!(parse_time("-15m", now), Ok(now - 900 * SECOND));
        for wrong in ["", "noon", "-5y", "2023-13-01T00:00:00Z", "2023T"] {
            assert!(parse_time(wrong, now).is_err(), "{wrong}");
        }
    }
}
