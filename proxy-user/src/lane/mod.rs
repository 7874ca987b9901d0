//! The bytes' own road: one TCP connection per flow between our server and our agent.
//!
//! The agent opens a lane by the route of its control stream ([`open`]), the server speaks first ([`hello`]),
//! the agent shows the ticket of its control stream ([`ticket`]), and the lane waits in the server's pool
//! ([`pool`]) until a dial takes it ([`dial`]). After a good answer it carries that flow and nothing else, in
//! clear ([`record::leave`]) or inside TLS ([`stream`]).

pub mod record;
#[cfg(test)]
mod testing;
