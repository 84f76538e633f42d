//! From The Things Network Stack V2 to The Things Stack, end to end.

mod clear;
mod counters;
mod crash;
mod errors;
mod fleet;
mod input;
mod lost;
mod pace;
mod rejoin;
mod rollback;
