//! What the fuzz targets call: one function per target, total for any bytes.
//!
//! A panic is the finding. The property tests of the modules call the same code.

use crate::{misbehave, prepare, seccomp, shim};

pub fn policy(bytes: &[u8]) {
    seccomp::misbehave::calls(bytes);
}

pub fn tables(bytes: &[u8]) {
    seccomp::misbehave::table(bytes);
}

pub fn paths(bytes: &[u8]) {
    misbehave::workspace_path(bytes);
}

pub fn versions(bytes: &[u8]) {
    shim::misbehave::versions(bytes);
}

pub fn configuration(bytes: &[u8]) {
    prepare::misbehave::configuration(bytes);
}

pub fn records(bytes: &[u8]) {
    misbehave::records(bytes);
}
