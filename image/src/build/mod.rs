//! Builds an image from Debian packages.

/// The Debian packages that hold what a build of the kernel from source needs.
pub const KERNEL_BUILD_PACKAGES: &[&str] = &[
    "bc",
    "bison",
    "flex",
    "gcc",
    "gcc-aarch64-linux-gnu",
    "libc6-dev",
    "make",
];
