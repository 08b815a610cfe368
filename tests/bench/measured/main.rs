//! The real binary, built where the benches can find it.

fn main() -> std::process::ExitCode {
    slipway_cli::main_impl()
}
