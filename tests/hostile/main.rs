//! Hostile inputs over real HTTP against a running system: webhooks, REST, roles.
//!
//! A row of the catalogue is one named test; rows that need no process are pinned beside their parser.

mod addresses;
mod agents;
mod forks;
mod frames;
mod memo;
mod names;
mod operators;
mod pages;
mod peers;
mod poison;
mod pools;
mod rest;
mod roles;
mod webhooks;
