//! slipway-dispatcher
