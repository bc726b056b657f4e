//! The simulator as its users call it.

mod comparison;
mod simulation;
mod traces;
mod world;
