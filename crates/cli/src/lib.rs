//! `slipway`: every role, the whole system in one process, and the client.
//!
//! The one crate that sees all roles (`embedded`), and that nothing may see but tests. Client verbs
//! speak the REST API alone. Standard output is data; everything else goes to standard error.

mod args;
mod client;
mod commands;
pub mod embedded;
mod exit_code;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

pub use exit_code::Exit;

/// Runs the command line of this process.
#[must_use]
pub fn main_impl() -> ExitCode {
    args::Cli::parse().start()
}
