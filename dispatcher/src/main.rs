//! The dispatcher as a process of its own.

use std::process::ExitCode;

use clap::Parser as _;
use slipway_dispatcher::args::Args;

fn main() -> ExitCode {
    Args::parse().start()
}
