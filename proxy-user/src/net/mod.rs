//! Sockets, TLS files and budgets; knows nothing of flows.
