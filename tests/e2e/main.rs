//! A server and an agent in this process, real sockets between them: behaviour that needs no privilege.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod abort;
mod answers;
mod bulk;
mod counts;
mod dial;
mod engines;
mod frontends;
mod goaway;
mod half_close;
mod keepalive;
mod kube_auth;
mod kube_auth_metadata;
mod kube_client;
mod kube_lease_counts;
mod kube_leases;
mod kube_nodes;
mod kube_proxy;
mod kube_slow;
mod lanes;
mod loss;
mod operate;
mod paths;
mod ready_backends;
mod search;
mod strategies;
mod tls;
mod urgent;
