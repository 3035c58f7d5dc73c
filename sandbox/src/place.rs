//! Where a program runs: in a private root, or in a directory of the host with rules.

use crate::grants;
use crate::identity::Caller;
use crate::namespaces::Attempt;
use crate::plan::{HostDirectory, PathRule, Root};
use crate::resolve::Resolved;
use crate::{Access, Layer, SpawnError, Spec, confine, host_directory, view};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where the program runs: a private root, or a directory of the host with rules.
pub(crate) struct Place {
    pub(crate) root: Option<Root>,
    pub(crate) host: Option<HostDirectory>,
    pub(crate) rules: Vec<PathRule>,
    pub(crate) workspace: PathBuf,
    pub(crate) temporary: PathBuf,
    pub(crate) writable: Vec<Writable>,
}

/// Something that is granted for writing.
pub(crate) struct Writable {
    /// As the program sees it.
    pub(crate) path: PathBuf,
    /// By which other name.
    pub(crate) alias: Option<PathBuf>,
    /// What was judged, whatever is at its path by now. In a private root it is what is at its path.
    pub(crate) file: Option<OwnedFd>,
}

impl Place {
    pub(crate) fn new(
        spec: &Spec,
        caller: Caller,
        resolved: &Resolved,
        attempt: &Attempt,
    ) -> Result<Self, SpawnError> {
        let grants = grants::open(&spec.grants, &spec.files)?;
        let writable = writable(&grants, attempt.has(Layer::MountNs))?;
        if attempt.has(Layer::MountNs) {
            let rules = confine::private_root(&grants);
            return Ok(Self {
                root: Some(view::private_root(resolved, grants, &spec.limits)?),
                host: None,
                rules,
                workspace: view::WORKSPACE.into(),
                temporary: "/tmp".into(),
                writable,
            });
        }
        grants::without_mounts(&grants, &why_no_mounts(attempt))?;
        let uid = match caller {
            Caller::Root { .. } => 0,
            Caller::User { uid, .. } => uid,
        };
        let (path, host) = host_directory::create(uid).map_err(|source| SpawnError::Prepare {
            step: "make a private directory in the system's temporary directory",
            source,
        })?;
        let readable = view::readable(resolved);
        Ok(Self {
            rules: confine::host_tree(&readable, grants, &path),
            root: None,
            host: Some(host),
            workspace: path.join("workspace"),
            temporary: path.join("tmp"),
            writable,
        })
    }
}

fn writable(grants: &[grants::Opened], private: bool) -> Result<Vec<Writable>, SpawnError> {
    let writable = grants
        .iter()
        .filter(|grant| grant.access == Access::ReadWrite);
    let each = writable.map(|grant| {
        if private {
            return Ok(Writable {
                path: grant.target.clone(),
                alias: None,
                file: None,
            });
        }
        let file = grant
            .file
            .try_clone()
            .map_err(|source| SpawnError::Prepare {
                step: "hold a granted path open",
                source,
            })?;
        Ok(Writable {
            path: grant.source.clone(),
            alias: (grant.target != grant.source).then(|| grant.target.clone()),
            file: Some(file),
        })
    });
    each.collect()
}

fn why_no_mounts(attempt: &Attempt) -> String {
    let state = attempt
        .states()
        .iter()
        .find(|state| state.layer == Layer::MountNs);
    match state.map(|state| &state.status) {
        Some(crate::LayerStatus::Missing { why }) => format!("there is none: {why}"),
        _ => "there is none".into(),
    }
}
