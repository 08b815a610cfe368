//! slipway-objects
