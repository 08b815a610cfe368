//! What benches share: figures as JSON lines, percentiles, a fleet of bare agents and
//! the dispatcher it talks to, a PostgreSQL, real processes.
//!
//! A bench prints one JSON line per figure and nothing else on standard output. Whatever a figure is
//! compared with is measured in the same run, so that the ratio holds on any hardware.

pub mod cluster;
pub mod figure;
pub mod fleet;
pub mod peers;
pub mod postgres;
pub mod process;
pub mod routed;
pub mod wire;
