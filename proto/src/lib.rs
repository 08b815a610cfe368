//! Everything on the wire between the roles: messages, services, and the limits they share.
//!
//! Holds no domain rules. Generated code lives in `OUT_DIR` and is not reviewed; `convert` is the
//! only translator between wire types and core's types.

pub mod convert;

/// The generated messages and services of package `slipway.v1`.
#[expect(
    clippy::allow_attributes,
    clippy::large_enum_variant,
    clippy::too_many_lines,
    reason = "generated; documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("slipway.v1");
}

/// KEDA's messages and service, package `externalscaler`.
#[expect(
    clippy::allow_attributes,
    clippy::too_many_lines,
    reason = "generated; documented in the .proto file"
)]
pub mod keda {
    tonic::include_proto!("externalscaler");
}

/// The descriptors of all files, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/slipway.bin"));

/// Largest control message, encoded.
pub const CONTROL_MESSAGE_MAX: usize = 64 * 1024;
/// Largest message of any kind that a role decodes.
pub const DECODE_MAX: usize = 4 * 1024 * 1024;
/// Largest run of output in one log frame, uncompressed.
pub const LOG_FRAME_MAX: usize = 256 * 1024;
/// Streams at once on one connection; tonic's default is none.
pub const STREAMS_MAX: u32 = 64;
