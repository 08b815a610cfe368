//! The `slipway` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    slipway_cli::main_impl()
}
