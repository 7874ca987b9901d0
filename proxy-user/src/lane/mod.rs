//! The bytes' own road: one TCP connection per flow between our server and our agent.
