//! What a cache daemon decides: what a workspace is as content, and what leaves the store first.
//!
//! Does no I/O: bytes come in, bytes and decisions go out.

pub mod eviction;
pub mod manifest;
