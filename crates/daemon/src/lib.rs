//! slipway-daemon
