//! slipway-cache
