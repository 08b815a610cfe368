//! Workspaces: a commit fetched into a fresh folder, before any stage has touched it.

pub mod checkout;
pub(crate) mod settle;
