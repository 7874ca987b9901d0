//! The gRPC frontend: `ProxyService.Proxy` for API servers.
//!
//! Served on h2 itself: a stream is a flow, its HTTP/2 windows are its flow control, and DATA goes between
//! packets and the other end without a queue of its own.

mod adapter;
mod connection;
mod flow;
mod message;
mod receive;
mod send;
mod stream;

#[cfg(test)]
mod tests;
