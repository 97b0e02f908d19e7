//! The `tmax-ckpt` binary: parse, run, print the error, exit.

fn main() {}
