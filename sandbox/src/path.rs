//! Paths below the workspace, checked once, when they are made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Bytes of a whole path at most: the kernel's `PATH_MAX`, less what a prefix may need.
const MAX_LEN: usize = 2048;
/// Components of a path at most.
const MAX_DEPTH: usize = 64;
/// Bytes of one component at most: the kernel's `NAME_MAX`.
const MAX_NAME: usize = 255;

/// A relative path that stays below the workspace: no `..`, no `.`, no empty component, no NUL.
///
/// Symbolic links are not this type's matter: whoever opens such a path does so component by
/// component without following links.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspacePath(Vec<u8>);

/// Why a path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path has no bytes.
    #[error("an empty path names no file of the workspace")]
    Empty,
    /// The path starts with a slash.
    #[error("{path:?} is absolute; give a path relative to the workspace")]
    Absolute {
        /// The path, for people.
        path: String,
    },
    /// A component is `..`, `.` or empty.
    #[error("{path:?} has the component {component:?}; give a plain path below the workspace")]
    Component {
        /// The path, for people.
        path: String,
        /// The component that was refused.
        component: String,
    },
    /// The path contains a NUL byte.
    #[error("{path:?} contains a NUL byte, which no file name can")]
    Nul {
        /// The path, for people.
        path: String,
    },
    /// The path, or a component of it, is too long or too deep.
    #[error(
        "the path has {len} bytes, {depth} components and a component of {name} bytes; \
         at most {MAX_LEN}, {MAX_DEPTH} and {MAX_NAME} are accepted"
    )]
    TooLong {
        /// Bytes of the path.
        len: usize,
        /// Number of components.
        depth: usize,
        /// Bytes of the longest component.
        name: usize,
    },
}

impl WorkspacePath {
    /// Checks the bytes of a path.
    ///
    /// # Errors
    /// [`PathError`] when the path is not a plain one below the workspace.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        let shown = || String::from_utf8_lossy(bytes).into_owned();
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        let components = || bytes.split(|byte| *byte == b'/');
        let depth = components().count();
        let name = components().map(<[u8]>::len).max().unwrap_or(0);
        if bytes.len() > MAX_LEN || depth > MAX_DEPTH || name > MAX_NAME {
            return Err(PathError::TooLong {
                len: bytes.len(),
                depth,
                name,
            });
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul { path: shown() });
        }
        if bytes.first() == Some(&b'/') {
            return Err(PathError::Absolute { path: shown() });
        }
        match components().find(|component| matches!(*component, b"" | b"." | b"..")) {
            None => Ok(Self(bytes.to_vec())),
            Some(component) => Err(PathError::Component {
                path: shown(),
                component: String::from_utf8_lossy(component).into_owned(),
            }),
        }
    }

    /// The bytes of the path.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the operating system's string.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The components from the top downwards.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }
}

impl TryFrom<&OsStr> for WorkspacePath {
    type Error = PathError;

    fn try_from(path: &OsStr) -> Result<Self, PathError> {
        Self::parse(path.as_bytes())
    }
}

impl TryFrom<&str> for WorkspacePath {
    type Error = PathError;

    fn try_from(path: &str) -> Result<Self, PathError> {
        Self::parse(path.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_accepted() {
        for good in ["a", "main.py", "a/b/c.txt", "...", "a..b", " "] {
            assert!(WorkspacePath::parse(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in [
            "", "/", "/etc", ".", "..", "../x", "a/..", "a/../b", "a/./b", "a//b", "a/", "a\0b",
        ] {
            assert!(WorkspacePath::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let deep = |n: usize| vec!["a"; n].join("/");
        assert!(WorkspacePath::parse(deep(MAX_DEPTH).as_bytes()).is_ok());
        assert!(WorkspacePath::parse(deep(MAX_DEPTH + 1).as_bytes()).is_err());
        assert!(WorkspacePath::parse(&vec![b'a'; MAX_NAME]).is_ok());
        assert!(WorkspacePath::parse(&vec![b'a'; MAX_NAME + 1]).is_err());
    }
}
