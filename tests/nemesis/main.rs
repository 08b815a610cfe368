//! `make nemesis N=200`: so many builds while everything happens to the processes that carry them.
//! Exits with 0 only if nothing was lost, doubled or left stuck.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

use std::process::ExitCode;

use anyhow::Context as _;
use slipway_daemon::Rng;
use slipway_tests::nemesis;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nemesis: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<bool> {
    let mut args = std::env::args().skip(1);
    let builds = args.next().map_or(Ok(200), |n| n.parse());
    let builds = builds.context("how many builds?")?;
    let seed = match args.next() {
        Some(seed) => seed.parse().context("which seed?")?,
        None => Rng::system().number() % 1_000_000,
    };
    println!("seed {seed}");
    slipway_daemon::start::install_crypto();
    let here = std::env::current_exe()?;
    let binary = here.with_file_name("slipway-under-test");
    let verdict = nemesis::run(&binary, seed, builds, |what| println!("{what}")).await?;
    print!("{verdict}");
    Ok(verdict.is_good())
}
