//! `slipway-router`: the traffic router as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    slipway_router::args::start()
}
