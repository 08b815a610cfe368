//! What a cache daemon decides: what a workspace is as content, what leaves the store first, how content
//! travels, who may read it, and whom it asks; what other build tools may ask.
//!
//! Does no I/O: bytes come in, bytes and decisions go out.

pub mod breaker;
pub mod capability;
pub mod eviction;
pub mod keyed;
pub mod manifest;
pub mod pack;
pub mod remote;
