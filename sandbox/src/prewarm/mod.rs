//! Sandboxes in which an interpreter has started and waits for its code.
//!
//! A [`Pool`] keeps a number of them. Each is a process of its own, executed and locked down like
//! any other program of this crate before any code is known, serves one execution and dies with
//! it; none is ever forked from another, so nothing that is to be random or secret is shared. The
//! time limits and the report count from the moment at which the code is handed over.
//!
//! An execution is served from the pool when the pool was made for one that is the same but for
//! arguments, files and input, and when those fit into a frame of 1 MiB. Every other one, and one
//! that meets an empty pool, is the caller's to [`spawn`](crate::spawn()).
//!
//! # Invariants
//! - An interpreter that died while it waited serves nobody: until it has said that everything is
//!   in place, none of the code has run, and the execution is given to another or to nobody.
//! - The thread that refills the pool sleeps in one `ppoll` until an interpreter is ready or dead,
//!   or an execution was asked for or has ended. As long as half of the pool is ready it starts
//!   nothing beside executions from the pool, which would take processors from them. What dies without having been asked for is replaced only so
//!   often; after that, and after a start that failed, the pool waits for executions.
//! - With the pool everything in it dies, and so it does with the caller's process. A fork of the
//!   caller has no part in it.

mod frame;
mod interpreter;
mod pool;
mod refill;

pub use interpreter::Interpreter;
pub use pool::{Pool, PoolError};
pub(crate) use refill::Busy;
