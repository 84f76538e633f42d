//! What an application has besides its devices: webhooks, pub/subs, packages, activation settings and its link, from one The
//! Things Stack to another.

mod back;
mod clear;
mod copy;
mod crash;
mod keys;
mod people;
mod scene;
