//! The hosted machine and all that is above it, but for the oracle and the stress: one program, because the
//! library is compiled anew for each.

mod device;
mod folios;
mod moving;
mod oddcalls;
mod progress;
mod stack;
mod vast;
mod watched;
