//! The agent as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use slipway_agent::args::Args;

fn main() -> ExitCode {
    Args::parse().start()
}
