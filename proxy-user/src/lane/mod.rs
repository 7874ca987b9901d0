//! The bytes' own road: one TCP connection per flow between our server and our agent.
//!
//! The agent opens a lane by the route of its control stream, the server speaks first ([`hello`]), the agent
//! shows the ticket of its control stream ([`ticket`]), and the lane waits in the server's pool until a dial
//! takes it. After a good answer it carries that flow and nothing else, in clear ([`record::leave`]) or inside
//! TLS.

pub mod hello;
pub mod message;
pub mod record;
#[cfg(test)]
mod testing;
pub mod ticket;

pub use hello::{ALPN_LANE, LANE_VERSION, Security};
pub use ticket::{Refusal, Ticket};
