//! The autoscaler as its users see it: rules, faults, properties, a closed loop and the reconcile loop.

mod chat;
mod closed_loop;
mod cluster;
mod digest;
mod faults;
mod leader;
mod log;
mod observe;
mod platform;
mod properties;
mod reconcile;
mod record;
mod rules;
mod schedule;
mod season;
mod situations;
mod turns;
mod words;
mod world;
