//! `steady ROUNDS`: that many rounds of one packet for each of 1,000 established connections, for counting instructions:
//! the difference of two runs, by the packets between them, is the cost of a packet. At most 60.

use std::process::ExitCode;
use thymus_benches::traffic::{Bench, established};
use thymus_dissect::Frame;

/// Made in every run, so that the difference of two holds none of it.
const ROUNDS_MAX: u32 = 60;

fn main() -> ExitCode {
    let Some(rounds) = std::env::args().nth(1).and_then(|text| text.parse::<u32>().ok()) else {
        eprintln!("steady ROUNDS");
        return ExitCode::from(2);
    };
    let mut bench = Bench::new(4_096);
    let kept: Vec<_> = (0..ROUNDS_MAX).map(|round| established(1_000, 6, round)).collect();
    for kept in kept.iter().take(rounds as usize) {
        let frames: Vec<Frame<'_>> = kept.iter().map(|kept| kept.frame()).collect();
        bench.observe(&frames);
    }
    println!("{}", bench.shard.flows_open());
    ExitCode::SUCCESS
}
