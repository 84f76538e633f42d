//! The long tests of the promises: the built binary is killed at every point, and everything goes wrong.
// Tests print what they covered.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod sweep;
#[path = "../world/mod.rs"]
#[allow(dead_code)]
mod world;

mod machine;
mod process;
mod storm;
mod weather;
