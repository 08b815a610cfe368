//! The borders: REST for people and programs, gRPC for agents and operators.

pub mod auth;
pub mod grpc;
pub mod problem;
pub mod rest;
