//! Blobs as files, workspaces laid out from them, and workspaces captured into them.

mod capture;
mod disk;
mod tree;

pub use capture::{CaptureError, Captured, Known, capture};
pub use disk::{Batch, BlobError, Disk};
pub use tree::{Restored, restore};
