//! `kernel/<arch>.config`: the options that the guest's kernel must have and must not have.

use crate::Arch;
use std::collections::HashMap;

/// The options of this repository for an architecture.
pub(crate) const fn fragment(arch: Arch) -> &'static str {
    match arch {
        Arch::Aarch64 => include_str!("../../../../kernel/aarch64.config"),
    }
}

/// The configuration that came out differs from what was asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel did not take these options of its configuration fragment: {}; \
     an option that they depend on is missing, or this version names them otherwise",
    wrong.join(", ")
)]
pub struct ConfigError {
    /// Each option as wanted, and as it is.
    pub wrong: Vec<String>,
}

/// Compares a finished `.config` with what was asked for.
pub(crate) fn check(fragment: &str, config: &str) -> Result<(), ConfigError> {
    let found: HashMap<&str, &str> = options(config).collect();
    let wrong: Vec<String> = options(fragment)
        .filter_map(|(name, wanted)| {
            let found = found.get(name).copied().unwrap_or("n");
            (found != wanted).then(|| format!("{name}={wanted} (is {found})"))
        })
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ConfigError { wrong })
    }
}

/// Options and their values; `# … is not set` counts as `n`.
fn options(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter_map(|line| match line.strip_prefix("# ") {
            Some(comment) => Some((comment.strip_suffix(" is not set")?, "n")),
            None => line
                .split_once('=')
                .filter(|(name, _)| name.starts_with("CONFIG_")),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "CONFIG_NET=y\nCONFIG_HZ=250\n# CONFIG_PCI is not set\n";

    #[test]
    fn what_was_asked_for_is_accepted() {
        let fragment = "# Words.\nCONFIG_NET=y\n# CONFIG_PCI is not set\n# CONFIG_X is not set\n";
        assert_eq!(check(fragment, CONFIG), Ok(()));
    }

    #[test]
    fn what_was_not_taken_is_named() {
        let fragment = "CONFIG_PCI=y\nCONFIG_HZ=100\n# CONFIG_NET is not set\nCONFIG_GONE=y\n";
        let error = check(fragment, CONFIG).unwrap_err();
        assert_eq!(
            error.wrong,
            [
                "CONFIG_PCI=y (is n)",
                "CONFIG_HZ=100 (is 250)",
                "CONFIG_NET=n (is y)",
                "CONFIG_GONE=y (is n)"
            ]
        );
    }

    #[test]
    fn fragments_set_no_option_twice() {
        for arch in Arch::ALL {
            let all: Vec<&str> = options(fragment(arch)).map(|(name, _)| name).collect();
            let unique: std::collections::HashSet<_> = all.iter().collect();
            assert_eq!(all.len(), unique.len());
        }
    }
}
