//! Bytes to types and back; no I/O, no tokio. Everything here is fuzzed.

pub mod authority;
pub mod code;
pub mod connect;
pub mod hpack;
mod huffman;
pub mod identifiers;
pub mod ids;
pub mod metadata;
pub mod method;
pub mod packet;
pub mod range;

/// What `build.rs` makes of `proto/konnectivity.proto`. Only this module and the gRPC services name it.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod pb {
    tonic::include_proto!("_");
}
