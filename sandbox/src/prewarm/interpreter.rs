//! The interpreters that can be started before their code is known.
//!
//! A row says how an interpreter is made to stop at the end of its own start, before it opens its
//! script: a hook that it loads by itself, put into the workspace, receives the frame, writes the
//! files and vanishes. The interpreter then opens, compiles and runs the script as ever, so that
//! tracebacks, exit statuses and what a script sees of itself are its own and not imitated. The
//! alternative, a program that passes the code to `exec`, leaves its own frames and variables
//! below the code's.

use crate::{Content, InputFile, Namespaces, PathError, Spec, Stdin, WorkspacePath};
use std::ffi::OsString;

/// An interpreter that can be started before its code is known.
#[derive(Debug)]
pub struct Interpreter {
    /// Its program, as an execution names it.
    pub(super) program: &'static str,
    /// The script that it is started with, and which is to be among an execution's files.
    script: &'static str,
    /// The directory of the hook, below the workspace, and the variable that names it.
    hook_directory: &'static str,
    hook_variable: &'static str,
    /// The hook's file name and content.
    hook_file: &'static str,
    hook: &'static str,
}

/// What a program waiting in a sandbox says, once when it is ready and once when everything that
/// it was told is in place: ASCII's "acknowledge".
pub(crate) const READY: u8 = 0x06;

impl Interpreter {
    /// CPython: `python3 main.py ARGS…`.
    pub const PYTHON: &'static Self = &Self {
        program: "python3",
        script: "main.py",
        hook_directory: ".ringfence",
        hook_variable: "PYTHONPATH",
        hook_file: "sitecustomize.py",
        hook: include_str!("python.py"),
    };

    /// Whether an execution is one of this interpreter's script.
    pub(crate) fn runs(&self, spec: &Spec) -> bool {
        spec.program == self.program
            && spec.args.first().is_some_and(|arg| arg == self.script)
            && spec
                .files
                .iter()
                .any(|file| file.path.as_bytes() == self.script.as_bytes())
    }

    /// An execution like the template, of the interpreter that waits.
    pub(crate) fn waiting(&self, template: &Spec) -> Result<Spec, PathError> {
        // All fields by name, so that a new one is thought of.
        let Spec {
            program: _,
            args: _,
            env,
            files: _,
            grants,
            limits,
            network,
            require,
            stdin: _,
            terminal: _,
            collect,
            namespaces,
            waits: _,
            supervision,
        } = template;
        let mut env = env.clone();
        let own = env
            .iter_mut()
            .rfind(|(name, value)| name == self.hook_variable && !value.is_empty());
        match own {
            Some((_, value)) => {
                let mut joined = OsString::from(self.hook_directory);
                joined.push(":");
                joined.push(&value);
                *value = joined;
            }
            None => env.push((self.hook_variable.into(), self.hook_directory.into())),
        }
        let path = format!("{}/{}", self.hook_directory, self.hook_file);
        let hook = InputFile {
            path: WorkspacePath::parse(path.as_bytes())?,
            mode: 0o644,
            content: Content::Bytes(self.hook.into()),
        };
        Ok(Spec {
            program: self.program.into(),
            args: vec![self.script.into()],
            env,
            files: vec![hook],
            grants: grants.clone(),
            limits: limits.clone(),
            network: *network,
            require: require.clone(),
            stdin: Stdin::Piped,
            terminal: None,
            collect: *collect,
            namespaces: *namespaces,
            waits: true,
            supervision: supervision.clone(),
        })
    }
}

/// Whether two executions differ in nothing but their program, arguments, files and input.
pub(crate) fn alike(one: &Spec, other: &Spec) -> bool {
    let Spec {
        program: _,
        args: _,
        env,
        files: _,
        grants,
        limits,
        network,
        require,
        stdin: _,
        terminal,
        collect,
        namespaces,
        waits,
        supervision,
    } = one;
    let same_namespaces = matches!(
        (namespaces, &other.namespaces),
        (Namespaces::Auto, Namespaces::Auto) | (Namespaces::Off, Namespaces::Off)
    );
    // Whoever is asked about one program is not asked about another.
    let supervised = supervision.is_some() || other.supervision.is_some();
    let terminals = terminal.is_some() || other.terminal.is_some();
    !supervised
        && !terminals
        && *env == other.env
        && *grants == other.grants
        && *limits == other.limits
        && *network == other.network
        && *require == other.require
        && *collect == other.collect
        && *waits == other.waits
        && same_namespaces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_comes_before_the_callers_own_path() {
        let variable = |env: &[(&str, &str)]| {
            let mut template = Spec::new("");
            template.env = env
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect();
            let waiting = Interpreter::PYTHON.waiting(&template).unwrap();
            let last = waiting
                .env
                .into_iter()
                .rfind(|(name, _)| name == "PYTHONPATH");
            last.unwrap().1
        };
        assert_eq!(variable(&[]), ".ringfence");
        assert_eq!(variable(&[("PYTHONPATH", "")]), ".ringfence");
        assert_eq!(
            variable(&[("PYTHONPATH", "/a"), ("PYTHONPATH", "/b:/c")]),
            ".ringfence:/b:/c"
        );
    }

    #[test]
    fn only_the_script_itself_is_run_by_it() {
        let python = Interpreter::PYTHON;
        let mut spec = python.waiting(&Spec::new("")).unwrap();
        assert!(!python.runs(&spec), "without the script");
        spec.files.push(InputFile {
            path: WorkspacePath::parse(b"main.py").unwrap(),
            mode: 0o644,
            content: Content::Bytes(vec![]),
        });
        assert!(python.runs(&spec));
        spec.args = vec!["-m".into(), "main.py".into()];
        assert!(!python.runs(&spec));
        spec.args = vec!["main.py".into(), "x".into()];
        spec.program = "/usr/bin/python3".into();
        assert!(!python.runs(&spec));
    }

    #[test]
    fn what_confines_has_to_be_alike() {
        let mut one = Spec::new("a");
        let other = Spec::new("b");
        assert!(alike(&one, &other));
        one.limits.processes = Some(3);
        assert!(!alike(&one, &other));
    }
}
