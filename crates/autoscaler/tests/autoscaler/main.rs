//! The autoscaler as its users see it: rules, faults, properties, a closed loop and the reconcile loop.

mod closed_loop;
mod faults;
mod properties;
mod reconcile;
mod rules;
mod words;
mod world;
