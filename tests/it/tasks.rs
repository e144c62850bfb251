//! Work that goes to other nodes, between real processes: nothing lost, nothing done twice, and what
//! breaks on the way is not seen by whoever asked.

mod code;
mod durable;
mod elsewhere;
mod failover;
mod rsi;
mod spread;
