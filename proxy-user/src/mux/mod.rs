//! Flows as DATA packets on a control stream: the fallback that is always there, and all an upstream peer knows.
