//! Builds against a mirror on this machine that serves what each test puts there.

use super::archive::{ArchiveError, Remote};
use super::deb::tests::deb_of;
use super::fetch::{FetchError, Fetcher};
use super::lock::{Lock, Role};
use super::plan::{PlanError, Planner};
use super::signature::{Keys, SignatureError};
use super::sources::{Keyring, Mirror};
use super::wanted::Wanted;
use super::{Error, LockMode, Options, Progress};
use crate::{Arch, Digest, Image};
use liblzma::write::XzEncoder;
use pgp::composed::{
    CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedPublicKey, SignedSecretKey,
    SubkeyParamsBuilder,
};
use pgp::packet::{SignatureConfig, SignatureType};
use pgp::types::{Password, Timestamp};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tar::EntryType::Regular;

type Files = Arc<Mutex<HashMap<String, Vec<u8>>>>;

/// A mirror; its files can be changed while it serves.
struct Server {
    files: Files,
    address: String,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = Files::default();
        let served = Arc::clone(&files);
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is none of the mirror's business.
                let _gone = answer(stream.unwrap(), &served);
            }
        });
        Self { files, address }
    }

    fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.files
            .lock()
            .unwrap()
            .insert(path.to_owned(), bytes.into());
    }

    fn remove(&self, path: &str) {
        self.files.lock().unwrap().remove(path).unwrap();
    }
}

/// A file whose name ends in `.cut` is announced longer than it is.
fn answer(mut stream: TcpStream, files: &Files) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    let path = request
        .split(' ')
        .nth(1)
        .unwrap_or_default()
        .trim_start_matches('/');
    match files.lock().unwrap().get(path) {
        Some(bytes) => {
            let announced = bytes.len() + if path.ends_with(".cut") { 100 } else { 0 };
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n")?;
            write!(stream, "Connection: close\r\n\r\n")?;
            stream.write_all(bytes)
        }
        None => write!(
            stream,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ),
    }
}

/// A key that signs with a subkey, as the archive's do.
fn key() -> SignedSecretKey {
    key_made(Timestamp::now())
}

fn key_made(created: Timestamp) -> SignedSecretKey {
    let subkey = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .created_at(created)
        .build()
        .unwrap();
    SecretKeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(false)
        .created_at(created)
        .primary_user_id("Archive <archive@example.org>".to_owned())
        .subkeys(vec![subkey])
        .build()
        .unwrap()
        .generate(rand::thread_rng())
        .unwrap()
}

fn sign(key: &SignedSecretKey, text: &str) -> String {
    let subkey = &key.secret_subkeys.first().unwrap().key;
    CleartextSignedMessage::sign(rand::thread_rng(), text, subkey, &Password::empty())
        .unwrap()
        .to_armored_string(None.into())
        .unwrap()
}

/// Where the package with the archive's keys has them.
const KEYRING: &str = "usr/share/keyrings/debian-archive-keyring.gpg";

fn armored(key: &SignedSecretKey) -> String {
    SignedPublicKey::from(key.clone())
        .to_armored_string(None.into())
        .unwrap()
}

/// An archive with packages `a`, which needs `b`, in some version.
struct Archive {
    server: Server,
    folder: tempfile::TempDir,
    key: SignedSecretKey,
    keyring: Keyring,
    wanted: Wanted,
    tools: Wanted,
}

const SUITES: [(&str, &str); 3] = [
    ("debian", "x"),
    ("debian", "x-updates"),
    ("debian-security", "x-security"),
];

impl Archive {
    fn new(version: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = key();
        let path = folder.path().join("keys.asc");
        let public = armored(&key);
        fs::write(&path, public).unwrap();
        let text = str::to_owned;
        let wanted = Wanted {
            suite: text("x"),
            kernel_source: text("source"),
            kernel_prebuilt: text("image"),
            keyring: text("keyring"),
            packages: vec![text("a")],
            ..Wanted::default()
        };
        let server = Server::start();
        let archive = Self {
            server,
            folder,
            key,
            keyring: Keyring::File(path),
            wanted,
            tools: Wanted {
                packages: vec![text("b")],
                ..Wanted::default()
            },
        };
        archive.release(version);
        archive
    }

    /// Publishes all packages in a version; those of earlier ones stay.
    fn release(&self, version: &str) {
        let packages: String = ["a", "b", "source", "image", "keyring"]
            .map(|name| {
                let deb = match name {
                    "keyring" => deb_of(&[(KEYRING, Regular, &armored(&self.key))]),
                    _ => deb_of(&[(&format!("usr/{name}"), Regular, version)]),
                };
                let path = format!("pool/{name}_{version}.deb");
                self.server.put(&format!("debian/{path}"), deb.as_slice());
                let needs = if name == "a" { "Depends: b\n" } else { "" };
                let (size, digest) = (deb.len(), Digest::of(&deb));
                format!(
                    "Package: {name}\nVersion: {version}\n{needs}Filename: {path}\n\
                     Size: {size}\nSHA256: {digest}\n\n"
                )
            })
            .concat();
        for (archive, suite) in SUITES {
            let text = if suite == "x" { packages.as_str() } else { "" };
            let mut index = XzEncoder::new(Vec::new(), 1);
            index.write_all(text.as_bytes()).unwrap();
            let index = index.finish().unwrap();
            let (size, digest) = (index.len(), Digest::of(&index));
            let path = "main/binary-arm64/Packages.xz";
            let release =
                format!("Suite: {suite}\nCodename: {suite}\nSHA256:\n {digest} {size} {path}\n");
            self.server
                .put(&format!("{archive}/dists/{suite}/{path}"), index);
            let release = sign(&self.key, &release);
            self.server
                .put(&format!("{archive}/dists/{suite}/InRelease"), release);
        }
    }

    fn mirror(&self) -> Mirror {
        let main = format!("{}/debian", self.server.address);
        Mirror {
            security: format!("{main}-security"),
            main,
            keyring: None,
        }
    }

    /// What a planner that begins with `lock` downloads for the root file system, and the lock
    /// that it ends with.
    fn plan(&self, lock: &Lock, mode: LockMode) -> Result<(Vec<String>, Lock), PlanError> {
        self.plan_with(lock, mode, Some(self.keyring.clone()))
    }

    fn plan_with(
        &self,
        lock: &Lock,
        mode: LockMode,
        keyring: Option<Keyring>,
    ) -> Result<(Vec<String>, Lock), PlanError> {
        self.with_planner(lock, mode, keyring, |planner| {
            let fetched = planner.fetch(Role::Rootfs)?;
            for (pin, path) in &fetched {
                assert_eq!(Digest::of_file(path).unwrap(), (pin.sha256, pin.size));
            }
            let labels = fetched.iter().map(|(pin, _)| pin.label()).collect();
            Ok((labels, planner.lock().clone()))
        })
    }

    fn with_planner<T>(
        &self,
        lock: &Lock,
        mode: LockMode,
        keyring: Option<Keyring>,
        work: impl FnOnce(&mut Planner<'_>) -> Result<T, PlanError>,
    ) -> Result<T, PlanError> {
        let progress = Progress::Silent;
        // An empty cache each time: only the mirror has something.
        let cache = tempfile::tempdir_in(self.folder.path()).unwrap();
        let fetcher = Fetcher::new(cache.path().to_owned(), progress);
        let mirror = self.mirror();
        let remote = Remote {
            mirror: &mirror,
            fetcher: &fetcher,
            progress,
        };
        let lock = lock.clone();
        let lists = [&self.wanted, &self.tools];
        work(&mut Planner::new(
            remote,
            lists,
            lock,
            mode,
            Arch::Aarch64,
            keyring,
        )?)
    }
}

#[test]
fn the_first_lock_comes_from_the_signed_index() {
    let archive = Archive::new("1.0");
    let (labels, lock) = archive.plan(&Lock::default(), LockMode::Update).unwrap();
    assert_eq!(labels, ["a 1.0", "b 1.0"]);
    assert_eq!(lock.pins.len(), 6);
    assert_eq!(lock.role(Role::LabTools).len(), 1);
    assert_eq!(lock.tools, Some(archive.tools.digest()));
    assert_eq!(lock.list, Some(archive.wanted.digest()));
}

#[test]
fn a_lock_holds_while_its_versions_can_be_had() {
    let archive = Archive::new("1.0");
    let (_, lock) = archive.plan(&Lock::default(), LockMode::Update).unwrap();
    archive.release("2.0");
    for mode in [LockMode::Prefer, LockMode::Locked] {
        let (labels, after) = archive.plan(&lock, mode).unwrap();
        assert_eq!(labels, ["a 1.0", "b 1.0"]);
        assert_eq!(after, lock);
    }
    let (labels, _) = archive.plan(&lock, LockMode::Update).unwrap();
    assert_eq!(labels, ["a 2.0", "b 2.0"]);
}

#[test]
fn a_version_that_has_left_is_replaced_or_refused() {
    let archive = Archive::new("1.0");
    let (_, lock) = archive.plan(&Lock::default(), LockMode::Update).unwrap();
    archive.release("2.0");
    archive.server.remove("debian/pool/b_1.0.deb");
    let (labels, _) = archive.plan(&lock, LockMode::Prefer).unwrap();
    assert_eq!(labels, ["a 2.0", "b 2.0"]);
    let error = archive.plan(&lock, LockMode::Locked).unwrap_err();
    assert!(matches!(error, PlanError::Left { pin, .. } if pin == "b 1.0"));
}

#[test]
fn a_lock_of_another_list_is_not_used() {
    let mut archive = Archive::new("1.0");
    let (_, lock) = archive.plan(&Lock::default(), LockMode::Update).unwrap();
    archive.wanted.packages = vec!["b".to_owned()];
    assert!(matches!(
        archive.plan(&lock, LockMode::Locked),
        Err(PlanError::Stale)
    ));
    let (labels, _) = archive.plan(&lock, LockMode::Prefer).unwrap();
    assert_eq!(labels, ["b 1.0"]);
}

#[test]
fn a_stale_list_of_tools_hinders_only_who_wants_them() {
    let mut archive = Archive::new("1.0");
    let (_, lock) = archive.plan(&Lock::default(), LockMode::Update).unwrap();
    archive.release("2.0");
    let tools = |archive: &Archive, mode| {
        archive.with_planner(&lock, mode, Some(archive.keyring.clone()), |planner| {
            planner.check_tools()?;
            let fetched = planner.fetch(Role::LabTools)?;
            let labels: Vec<String> = fetched.iter().map(|(pin, _)| pin.label()).collect();
            Ok(labels)
        })
    };
    assert_eq!(tools(&archive, LockMode::Locked).unwrap(), ["b 1.0"]);
    archive.tools.packages = vec!["source".to_owned()];
    let (labels, after) = archive.plan(&lock, LockMode::Locked).unwrap();
    assert_eq!(labels, ["a 1.0", "b 1.0"]);
    assert_eq!(after, lock);
    let error = tools(&archive, LockMode::Locked).unwrap_err();
    assert!(matches!(error, PlanError::Stale), "{error}");
    assert_eq!(tools(&archive, LockMode::Prefer).unwrap(), ["source 2.0"]);
}

#[test]
fn a_package_that_was_changed_is_refused() {
    let archive = Archive::new("1.0");
    let (_, lock) = archive.plan(&Lock::default(), LockMode::Update).unwrap();
    let path = "debian/pool/b_1.0.deb";
    let good = archive
        .server
        .files
        .lock()
        .unwrap()
        .get(path)
        .unwrap()
        .clone();
    let mut changed = good.clone();
    changed[20] ^= 1;
    archive.server.put(path, changed);
    let error = archive.plan(&lock, LockMode::Prefer).unwrap_err();
    assert!(
        matches!(error, PlanError::Fetch(FetchError::Digest { .. })),
        "{error}"
    );
    archive.server.put(path, [&good[..], b"more"].concat());
    let error = archive.plan(&lock, LockMode::Prefer).unwrap_err();
    assert!(
        matches!(error, PlanError::Fetch(FetchError::Size { .. })),
        "{error}"
    );
    archive.server.put(path, &good[..50]);
    let error = archive.plan(&lock, LockMode::Prefer).unwrap_err();
    assert!(
        matches!(error, PlanError::Fetch(FetchError::Size { found: 50, .. })),
        "{error}"
    );
}

#[test]
fn a_transfer_that_breaks_off_leaves_nothing() {
    let archive = Archive::new("1.0");
    archive.server.put("file.cut", "half");
    let cache = archive.folder.path().join("cache");
    let fetcher = Fetcher::new(cache.clone(), Progress::Silent);
    let url = format!("{}/file.cut", archive.server.address);
    let sha256 = Digest::of(b"half and half");
    let wanted = super::fetch::Wanted {
        name: "file",
        url: &url,
        size: 13,
        sha256,
    };
    let error = fetcher.fetch(&wanted).unwrap_err();
    assert!(
        matches!(error, FetchError::Broken { received: 4, .. }),
        "{error}"
    );
    assert_eq!(fs::read_dir(cache).unwrap().count(), 0);
}

fn signature_error(error: PlanError) -> SignatureError {
    match error {
        PlanError::Archive(ArchiveError::Signature { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_release_file_that_was_changed_is_refused() {
    let archive = Archive::new("1.0");
    let path = "debian/dists/x/InRelease";
    let good = archive
        .server
        .files
        .lock()
        .unwrap()
        .get(path)
        .unwrap()
        .clone();
    let good = String::from_utf8(good).unwrap();
    let plan = || archive.plan(&Lock::default(), LockMode::Prefer);
    for (from, to) in [
        ("Suite: x", "Suite: y"),
        ("\nSHA256:", "\nOrigin: me\nSHA256:"),
    ] {
        assert!(good.contains(from));
        archive.server.put(path, good.replacen(from, to, 1));
        let error = signature_error(plan().unwrap_err());
        assert!(
            matches!(error, SignatureError::Untrusted { signatures: 1, .. }),
            "{error}"
        );
    }
    archive.server.put(path, "Suite: x\nCodename: x\n");
    assert!(matches!(
        signature_error(plan().unwrap_err()),
        SignatureError::Unsigned(_)
    ));
    archive.server.put(path, good);
    plan().unwrap();
}

#[test]
fn only_keys_of_the_keyring_are_trusted() {
    let archive = Archive::new("1.0");
    let stranger = armored(&key());
    let keyring = Some(Keyring::Inline(stranger));
    let error = archive
        .plan_with(&Lock::default(), LockMode::Prefer, keyring)
        .unwrap_err();
    assert!(matches!(
        signature_error(error),
        SignatureError::Untrusted { .. }
    ));
    let error = archive
        .plan_with(&Lock::default(), LockMode::Prefer, None)
        .unwrap_err();
    assert!(matches!(error, PlanError::NoKeyring { .. }), "{error}");
}

#[test]
fn a_machine_without_keys_takes_those_that_the_lock_pins() {
    let archive = Archive::new("1.0");
    let (_, lock) = archive.plan(&Lock::default(), LockMode::Update).unwrap();
    archive.release("2.0");
    archive.server.remove("debian/pool/b_1.0.deb");
    let (labels, _) = archive.plan_with(&lock, LockMode::Prefer, None).unwrap();
    assert_eq!(labels, ["a 2.0", "b 2.0"]);
    let (labels, _) = archive.plan_with(&lock, LockMode::Update, None).unwrap();
    assert_eq!(labels, ["a 2.0", "b 2.0"]);
}

#[test]
fn another_suites_release_file_is_refused() {
    let archive = Archive::new("1.0");
    let other = archive.server.files.lock().unwrap()["debian/dists/x-updates/InRelease"].clone();
    archive.server.put("debian/dists/x/InRelease", other);
    let error = archive
        .plan(&Lock::default(), LockMode::Prefer)
        .unwrap_err();
    assert!(
        matches!(error, PlanError::Archive(ArchiveError::Release { .. })),
        "{error}"
    );
}

#[test]
fn text_around_a_signed_message_is_not_part_of_it() {
    let key = key();
    let public = armored(&key);
    let keys = Keys::parse(public.as_bytes(), "test").unwrap();
    let message = sign(&key, "Suite: x\n- dash\n");
    assert_eq!(keys.verify(&message).unwrap(), "Suite: x\n- dash\n");
    let around = format!("Suite: evil\n{message}\nSuite: evil\n");
    assert!(!keys.verify(&around).is_ok_and(|text| text.contains("evil")));
}

#[test]
fn a_key_signs_nothing_before_it_was_made() {
    let tomorrow = Timestamp::from_secs(Timestamp::now().as_secs() + 86_400);
    let key = key_made(tomorrow);
    let public = armored(&key);
    let keys = Keys::parse(public.as_bytes(), "test").unwrap();
    let error = keys.verify(&sign(&key, "Suite: x\n")).unwrap_err();
    assert!(matches!(error, SignatureError::Untrusted { .. }));
}

#[test]
fn a_revoked_subkey_signs_nothing() {
    let key = key();
    let mut public = SignedPublicKey::from(key.clone());
    let message = sign(&key, "Suite: x\n");
    let keys = |public: &SignedPublicKey| {
        Keys::parse(
            public.to_armored_string(None.into()).unwrap().as_bytes(),
            "test",
        )
        .unwrap()
    };
    keys(&public).verify(&message).unwrap();
    let subkey = public.public_subkeys.first_mut().unwrap();
    let config = SignatureConfig::from_key(
        rand::thread_rng(),
        &key.primary_key,
        SignatureType::SubkeyRevocation,
    );
    let revocation = config
        .unwrap()
        .sign_subkey_binding(
            &key.primary_key,
            key.primary_key.public_key(),
            &Password::empty(),
            &subkey.key,
        )
        .unwrap();
    subkey.signatures.push(revocation);
    assert!(keys(&public).verify(&message).is_err());
}

/// The smallest program for the guest that is accepted.
fn agent(folder: &Path) -> std::path::PathBuf {
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    // A program, for aarch64, version 1, a header of 64 bytes.
    for (at, value) in [(16, 2), (18, 183), (20, 1), (52, 64), (54, 56)] {
        elf[at] = value;
    }
    let path = folder.join("agent");
    fs::write(&path, elf).unwrap();
    path
}

#[test]
fn a_build_that_fails_leaves_the_previous_image() {
    let archive = Archive::new("1.0");
    let folder = archive.folder.path();
    let output = folder.join("image");
    super::publish::tests::publish_sample(&output, folder);
    let before = Image::open(&output).unwrap();
    let mut options = Options::new(agent(folder));
    options.kernel = super::Kernel::Prebuilt;
    options.output = Some(output.clone());
    options.cache = Some(folder.join("build"));
    options.mirror = Some(format!("{}/debian", archive.server.address));
    options.progress = Progress::Silent;
    options.lock = LockMode::Locked;
    // This mirror has none of the versions of the repository's lock.
    let error = super::run(&options).unwrap_err();
    assert!(
        matches!(error, Error::Plan(PlanError::Left { .. })),
        "{error}"
    );
    let after = Image::open(&output).unwrap();
    assert_eq!(after, before);
    after.verify().unwrap();
}
