//! Flows as DATA packets on a control stream: the fallback that is always there, and all an upstream peer knows.
//!
//! A [`Link`] is one control stream. Its one reader gives each flow its bytes, its one writer takes one packet of
//! each flow in turn, and neither ever waits for a flow: between our own ends [`window`] sees to that, towards an
//! upstream peer [`brake`] does. A flow is a [`MuxStream`].

pub mod brake;
mod bridge;
mod flow;
mod link;
mod pool;
pub mod state;
mod stream;
pub mod window;

pub use bridge::MuxStream;
pub use link::{BadConnId, Closed, Link, LinkConfig, Observer, Outlet};
pub use pool::Pool;
pub use state::{Dialect, Role};
pub use stream::LinkEnd;
