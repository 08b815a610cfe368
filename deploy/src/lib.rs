//! slipway-deploy
