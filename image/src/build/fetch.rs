//! Downloads: each file once, kept by its digest.
//!
//! Nothing is trusted for where it came from. A file is in the cache only under the digest that
//! its bytes have, and it is looked up by the digest that the caller demands.

use super::files::{self, FileError};
use super::progress::Progress;
use crate::Digest;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::tls::{RootCerts, TlsConfig};

/// How often a transfer that broke off is begun anew.
const ATTEMPTS: u32 = 3;

/// A server that says nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// Who vouches for a server: the system, and on macOS, where asking it takes a framework more than
/// the command may need, Mozilla's list.
const ROOTS: RootCerts = if cfg!(target_os = "macos") {
    RootCerts::WebPki
} else {
    RootCerts::PlatformVerifier
};

/// Why something could not be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The mirror does not have the file (any more).
    #[error("the mirror has no {url} (HTTP status {status})")]
    Gone {
        /// The address.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// The mirror could not be reached, or answered with an error.
    #[error("cannot download {url}; look at the network, the proxy variables or the mirror")]
    Transfer {
        /// The address.
        url: String,
        /// What went wrong.
        source: Box<ureq::Error>,
    },
    /// The answer broke off.
    #[error("the download of {url} broke off after {received} bytes")]
    Broken {
        /// The address.
        url: String,
        /// How much had come.
        received: u64,
        /// What went wrong.
        source: io::Error,
    },
    /// The answer is longer or shorter than it has to be.
    #[error("{url} should have {expected} bytes and has {found}{}", more(*.found > *.expected))]
    Size {
        /// The address.
        url: String,
        /// What was asked for.
        expected: u64,
        /// What came; reading stops soon after the expected size.
        found: u64,
    },
    /// The answer is not the file that was asked for.
    #[error("{url} should have SHA-256 {expected} and has {found}")]
    Digest {
        /// The address.
        url: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A text is too long, or not UTF-8.
    #[error("{url} is not the text that it should be")]
    Text {
        /// The address.
        url: String,
    },
    /// The cache cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

fn more(longer: bool) -> &'static str {
    if longer { " or more" } else { "" }
}

/// What identifies a file to be downloaded.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<'a> {
    /// What to call it to people.
    pub name: &'a str,
    /// Where it is.
    pub url: &'a str,
    /// Its length.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

/// Downloads files and keeps them.
#[derive(Debug)]
pub(crate) struct Fetcher {
    agent: ureq::Agent,
    folder: PathBuf,
    progress: Progress,
}

impl Fetcher {
    /// A client that keeps its files in `folder`. Proxies come from the environment, the
    /// certificates for TLS from the system or `SSL_CERT_FILE` (on macOS from Mozilla's list).
    pub(crate) fn new(folder: PathBuf, progress: Progress) -> Self {
        let tls = TlsConfig::builder().root_certs(ROOTS).build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_connect(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("ringfence/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.new_agent(),
            folder,
            progress,
        }
    }

    /// Where a file of this digest is kept.
    fn kept(&self, sha256: &Digest) -> PathBuf {
        self.folder.join(sha256.to_string())
    }

    /// The path of the wanted file, downloaded if it is not there yet, its digest checked.
    pub(crate) fn fetch(&self, wanted: &Wanted<'_>) -> Result<PathBuf, FetchError> {
        let path = self.kept(&wanted.sha256);
        if is_intact(&path, wanted) {
            files::mark_used(&path);
            return Ok(path);
        }
        let mut attempt = 1;
        loop {
            match self.download(wanted, &path) {
                Ok(()) => return Ok(path),
                Err(error) if attempt < ATTEMPTS && is_passing(&error) => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn download(&self, wanted: &Wanted<'_>, path: &Path) -> Result<(), FetchError> {
        let url = wanted.url;
        let body = self.get(url)?;
        let meter = self.progress.transfer(wanted.name, Some(wanted.size));
        files::write_atomically(path, |file| {
            // One byte more than wanted tells an answer that is too long.
            let limited = body.take(wanted.size.saturating_add(1));
            let mut counted = Counted {
                inner: limited,
                file,
                received: 0,
                meter: &meter,
            };
            let (found, size) =
                Digest::of_reader(&mut counted).map_err(|source| FetchError::Broken {
                    url: url.to_owned(),
                    received: counted.received,
                    source,
                })?;
            if size != wanted.size {
                let (url, expected) = (url.to_owned(), wanted.size);
                return Err(FetchError::Size {
                    url,
                    expected,
                    found: size,
                });
            }
            if found != wanted.sha256 {
                let (url, expected) = (url.to_owned(), wanted.sha256);
                return Err(FetchError::Digest {
                    url,
                    expected,
                    found,
                });
            }
            Ok(())
        })
    }

    /// A text of at most `limit` bytes, not kept. The caller has to verify it.
    pub(crate) fn fetch_text(&self, url: &str, limit: u64) -> Result<String, FetchError> {
        let mut text = String::new();
        let not_text = |_error: io::Error| FetchError::Text {
            url: url.to_owned(),
        };
        self.get(url)?
            .take(limit + 1)
            .read_to_string(&mut text)
            .map_err(not_text)?;
        if u64::try_from(text.len()).is_ok_and(|len| len <= limit) {
            Ok(text)
        } else {
            Err(FetchError::Text {
                url: url.to_owned(),
            })
        }
    }

    fn get(&self, url: &str) -> Result<impl Read + use<>, FetchError> {
        match self.agent.get(url).call() {
            // The length is bounded by the callers.
            Ok(answer) => Ok(answer
                .into_body()
                .into_with_config()
                .limit(u64::MAX)
                .reader()),
            Err(ureq::Error::StatusCode(status @ (404 | 410))) => Err(FetchError::Gone {
                url: url.to_owned(),
                status,
            }),
            Err(source) => Err(FetchError::Transfer {
                url: url.to_owned(),
                source: Box::new(source),
            }),
        }
    }
}

/// Whether `path` holds the wanted bytes.
fn is_intact(path: &Path, wanted: &Wanted<'_>) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == wanted.size)
        && Digest::of_file(path).is_ok_and(|(found, _)| found == wanted.sha256)
}

/// Whether another attempt may go better: connections break, wrong files stay wrong.
fn is_passing(error: &FetchError) -> bool {
    match error {
        FetchError::Broken { .. } => true,
        FetchError::Transfer { source, .. } => match **source {
            ureq::Error::StatusCode(status) => status >= 500,
            ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed => true,
            _ => false,
        },
        // Shorter than it should be: a connection that was closed early.
        FetchError::Size {
            expected, found, ..
        } => found < expected,
        _ => false,
    }
}

/// Writes to the file what is read, and counts it.
struct Counted<'a, R> {
    inner: R,
    file: &'a mut File,
    received: u64,
    meter: &'a super::progress::Meter,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.file
            .write_all(buffer.get(..read).unwrap_or_default())?;
        let amount = u64::try_from(read).unwrap_or(u64::MAX);
        self.received = self.received.saturating_add(amount);
        self.meter.advance(amount);
        Ok(read)
    }
}
