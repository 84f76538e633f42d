//! Gateways, end to end: what the target holds, what is said, and what comes back.

mod back;
mod crash;
mod cups;
mod plan;
mod run;
mod scene;
mod shape;
