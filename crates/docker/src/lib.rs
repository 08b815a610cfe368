//! slipway-docker
