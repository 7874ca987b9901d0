//! Sockets, TLS files and budgets; knows nothing of flows.

mod bundle;
pub mod cipher;
pub mod connect;
pub mod dial;
mod hosts;
mod irregular;
pub mod listener;
mod lookup;
pub(crate) mod newcomers;
mod order;
mod part;
pub mod pem;
pub mod pulse;
pub(crate) mod refusal;
pub mod reload;
mod resolv_conf;
pub mod resolve;
pub(crate) mod room;
pub(crate) mod seldom;
mod sessions;
pub mod sockopt;
pub mod tls;
pub mod uds;
mod validity;

pub(crate) use hosts::own_name;
