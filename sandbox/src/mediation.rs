//! What the supervisor is to do on the program's behalf, as the caller prepares it.

use crate::namespaces::Attempt;
use crate::place::Writable;
use crate::plan::{self, MediatedRoot, Mediation, Supervised};
use crate::seccomp::{self, FilterError, Separated};
use crate::{Layer, SpawnError, Spec, confine, view};
use ringfence_protocol::Operation;
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicI32;

/// The mediation where other layers leave a gap or the caller wants to be asked: the program may
/// change what lies in its own directories and in what is granted for writing.
pub(crate) fn plan(
    spec: &Spec,
    separated: Separated,
    own: [&PathBuf; 2],
    writable: Vec<Writable>,
    attempt: &Attempt,
    questions: Option<&OwnedFd>,
) -> Result<Option<Mediation>, SpawnError> {
    let failed = |error: FilterError| SpawnError::LayerUnavailable {
        layer: Layer::Seccomp,
        why: error.to_string(),
    };
    let asked = spec.supervision.as_ref().zip(questions);
    let Separated {
        root,
        sockets,
        names,
        signals,
        ..
    } = separated;
    if asked.is_none() && root && sockets && names && signals {
        return Ok(None);
    }
    let pass = asked.map_or(Ok(0), |_| random())?;
    let own_filter =
        asked.map(|(supervision, _)| seccomp::supervised(separated, &supervision.operations, pass));
    let supervision = asked.map(|(supervision, questions)| Supervised {
        questions: questions.as_raw_fd(),
        file_size: spec.limits.file_size,
        operations: bits(&supervision.operations),
        out_of_reach: attempt.has(Layer::PidNs) || confine::confines_signals(),
        pass,
        limit: u64::try_from(supervision.limit.as_nanos()).unwrap_or(u64::MAX),
        default: supervision.default,
    });
    Ok(Some(Mediation {
        own_filter: own_filter.transpose().map_err(failed)?,
        roots: roots(own, writable, separated.root)?,
        abstract_sockets: attempt.has(Layer::NetNs),
        datagrams: separated.sockets,
        supervision,
    }))
}

fn bits(operations: &BTreeSet<Operation>) -> u32 {
    let bits = operations.iter().map(|operation| plan::bit(*operation));
    bits.fold(0, |all, bit| all | bit)
}

/// A number that cannot be guessed.
fn random() -> Result<u64, SpawnError> {
    getrandom::u64().map_err(|error| SpawnError::Prepare {
        step: "draw a random number",
        source: error.into(),
    })
}

fn roots(
    own: [&PathBuf; 2],
    writable: Vec<Writable>,
    private_root: bool,
) -> Result<Vec<MediatedRoot>, SpawnError> {
    let mut roots = Vec::new();
    for path in own {
        roots.push(root(path)?);
    }
    if private_root {
        roots.push(root(Path::new("/dev/shm"))?);
    }
    for Writable { path, alias, file } in writable {
        roots.push(MediatedRoot {
            alias: alias.as_deref().map(view::c_string).transpose()?,
            file,
            ..root(&path)?
        });
    }
    Ok(roots)
}

fn root(path: &Path) -> Result<MediatedRoot, SpawnError> {
    Ok(MediatedRoot {
        path: view::c_string(path)?,
        alias: None,
        file: None,
        opened: AtomicI32::new(-1),
    })
}
