//! Does nothing, on purpose. Cargo switches the features that only dev-dependencies ask for on when an
//! example is among the things to build. `cargo xtask run` names this one beside the programs, so that
//! they get the same dependencies as in `cargo xtask test` and nothing is compiled twice.

fn main() {}
