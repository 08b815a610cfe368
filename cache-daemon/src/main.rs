//! The process `slipway-cache`.

use std::process::ExitCode;

fn main() -> ExitCode {
    slipway_cache::args::main()
}
