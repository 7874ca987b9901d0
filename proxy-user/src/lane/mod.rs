//! The bytes' own road: one TCP connection per flow between our server and our agent.
//!
//! The agent opens a lane by the route of its control stream, the server speaks first ([`hello`]), the agent
//! shows the ticket of its control stream ([`ticket`]), and the lane waits in the server's pool until a dial
//! takes it. After a good answer it carries that flow ([`carried`]): in frames inside TLS while it may be a short one, and
//! then it returns to the pool; a flow that lasts uses its lane up, in clear or inside TLS.

mod accept;
mod batch;
mod carried;
mod carrier;
pub mod counters;
mod demand;
mod dial;
pub mod hello;
pub mod message;
pub mod open;
mod opener;
mod pool;
pub mod record;
mod route;
mod seen;
mod serve;
mod server;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod ticket;

pub use accept::handshake;
pub use carrier::Wire;
pub use dial::{Dialled, Fallback};
pub use hello::{ALPN_LANE, LANE_VERSION, Security};
pub use open::{AgentLaneConfig, AgentLanes, AgentStream};
pub use route::LaneRoute;
pub use serve::Answered;
pub use server::{Ask, ServerLaneConfig, ServerLanes, StreamLanes};
pub use stream::LaneStream;
pub use ticket::{Refusal, Ticket};
