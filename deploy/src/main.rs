//! `slipway-deploy`: the deploy coordinator as a process.

use std::process::ExitCode;

fn main() -> ExitCode {
    slipway_deploy::args::start()
}
