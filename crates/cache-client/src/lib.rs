//! slipway-cache-client
