//! The simulator as its users call it.

mod chat;
mod comparison;
mod replay;
mod simulation;
mod traces;
mod world;
