//! The command line of the vSensor.

fn main() {}
