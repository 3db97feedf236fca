//! The `trierarch` program.

fn main() {}
