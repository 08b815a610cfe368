//! slipway-agent
