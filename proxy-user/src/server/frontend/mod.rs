//! Where API servers ask for flows.

pub mod grpc;
