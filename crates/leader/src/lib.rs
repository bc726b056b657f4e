//! What gateways and the deciding autoscaler tell each other, and what KEDA is told.
//!
//! Each gateway keeps one call to the leader ([`reporter`]): it reports every model each second, and at once when
//! a request finds no replica. The leader dates and keeps what it hears ([`collector`], served by [`server`]): its
//! loops read it as their [`Source`](autoscaler::reconcile::Source), and answer with directives. Before replicas
//! go, every gateway has agreed to send them nothing more. Neither side needs the other to go on.

pub mod collector;
pub mod keda;
mod metrics;
pub mod reporter;
pub mod server;
mod wire;

#[cfg(test)]
mod tests;
