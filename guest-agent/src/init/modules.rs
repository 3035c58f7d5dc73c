//! Kernel modules, for a kernel that does not have everything built in.
//!
//! The initramfs then holds `/modules/load`: one path per line, in the order of their dependencies.
//! Such a path is absolute or relative to `/modules`.

use super::{InitError, step};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::Path;

const DIRECTORY: &str = "/modules";
const LIST: &str = "/modules/load";

/// `MODULE_INIT_COMPRESSED_FILE` of `linux/module.h`.
const COMPRESSED: i32 = 4;

/// Loads every module of the list, if there is one.
pub(super) fn load() -> Result<(), InitError> {
    let list = match std::fs::read_to_string(LIST) {
        Ok(list) => list,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(step(format!("read {LIST}"))(error)),
    };
    names(&list).try_for_each(|name| load_one(&Path::new(DIRECTORY).join(name)))
}

fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn load_one(path: &Path) -> Result<(), InitError> {
    let what = || format!("load the module {}", path.display());
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(step(what()))?;
    let flags = if is_compressed(path) { COMPRESSED } else { 0 };
    match rustix::system::finit_module(&file, c"", flags) {
        // Built in, or loaded already.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(step(what())(error)),
    }
}

fn is_compressed(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "xz" || extension == "zst" || extension == "gz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_line_by_line() {
        let list = "# for virtio\nvirtio_blk.ko\n\n  lib/squashfs.ko.xz \n";
        let names: Vec<_> = names(list).collect();
        assert_eq!(names, ["virtio_blk.ko", "lib/squashfs.ko.xz"]);
        assert!(!is_compressed(Path::new(names[0])));
        assert!(is_compressed(Path::new(names[1])));
    }
}
