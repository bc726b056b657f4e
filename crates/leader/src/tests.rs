//! Gateways and leaders in one process, over connections in memory, on a paused clock.

mod hostile;
mod lead;
mod net;
mod reports;
mod withdrawals;
