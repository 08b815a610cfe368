//! Blobs as files, workspaces laid out from them, and workspaces captured into them.

mod batch;
mod capture;
mod disk;
pub(crate) mod pack;
pub(crate) mod pins;
mod space;
pub(crate) mod trash;
mod tree;

pub use batch::{Batch, Durable};
pub use capture::{CaptureError, Captured, Known, capture, capture_paths};
pub(crate) use disk::Found;
pub use disk::{BlobError, Disk};
pub(crate) use pack::{Incoming as PackIncoming, Pack};
pub use tree::{Restored, restore};
