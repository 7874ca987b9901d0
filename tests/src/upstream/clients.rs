//! Whoever asked upstream's server for a flow, as its agents' loops see it.

use std::sync::Arc;

use bytes::Bytes;
use proxy_user::wire::pb::{self, PacketType, packet::Payload};
use tokio::sync::{mpsc, oneshot};

use super::agent::packet;

#[derive(Clone)]
pub(super) enum Client {
    /// Packets go to its stream.
    Grpc(mpsc::Sender<pb::Packet>),
    Connect(Arc<Connected>),
}

/// A CONNECT: its dial's outcome, then the bytes for its socket. The socket closes when the sender is gone.
pub(super) struct Connected {
    pub(super) outcome: std::sync::Mutex<Option<oneshot::Sender<Result<i64, String>>>>,
    pub(super) bytes: std::sync::Mutex<Option<mpsc::Sender<Bytes>>>,
}

impl Client {
    pub(super) async fn dialled(&self, response: pb::DialResponse) {
        match self {
            // A client that has left is noticed by its stream's reader.
            Client::Grpc(client) => {
                drop(client.send(packet(PacketType::DialRsp, Payload::DialResponse(response))).await);
            }
            Client::Connect(client) => {
                let outcome = match response.error.is_empty() {
                    true => Ok(response.connect_id),
                    false => Err(response.error),
                };
                if let Some(waiting) = super::server::lock(&client.outcome).take() {
                    // It may have left.
                    let _ = waiting.send(outcome);
                }
            }
        }
    }

    pub(super) async fn dial_closed(&self, random: i64) {
        match self {
            Client::Grpc(client) => {
                let close = Payload::CloseDial(pb::CloseDial { random });
                drop(client.send(packet(PacketType::DialCls, close)).await);
            }
            // Closed without a byte.
            Client::Connect(client) => drop(super::server::lock(&client.outcome).take()),
        }
    }

    pub(super) async fn data(&self, data: pb::Data) {
        match self {
            Client::Grpc(client) => {
                drop(client.send(packet(PacketType::Data, Payload::Data(data))).await);
            }
            Client::Connect(client) => {
                let bytes = super::server::lock(&client.bytes).clone();
                if let Some(bytes) = bytes {
                    // A client that has left: upstream keeps the entry and logs each packet.
                    let _ = bytes.send(data.data).await;
                }
            }
        }
    }

    pub(super) async fn closed(&self, conn: i64, error: String) {
        match self {
            Client::Grpc(client) => {
                let close = Payload::CloseResponse(pb::CloseResponse { error, connect_id: conn });
                drop(client.send(packet(PacketType::CloseRsp, close)).await);
            }
            Client::Connect(client) => drop(super::server::lock(&client.bytes).take()),
        }
    }
}
