//! OpenPGP: is this `InRelease` the archive's own word?
//!
//! Everything downloaded is trusted only through what this module returns: the text that a key of
//! the keyring signed, never the file as it came.

use super::files::{FileError, failed};
use super::sources::Keyring;
use pgp::composed::{
    CleartextSignedMessage, Deserializable as _, SignedPublicKey, SignedPublicSubKey,
};
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, Timestamp};
use std::fs;

/// Why a signed text is not trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The keyring holds no key, or is damaged.
    #[error("the keyring {keyring} holds no usable OpenPGP key")]
    Keyring {
        /// Which keyring.
        keyring: String,
    },
    /// The keyring cannot be read.
    #[error(transparent)]
    Read(#[from] FileError),
    /// The text is not of the form of a signed text.
    #[error("the text has no OpenPGP signature around it")]
    Unsigned(#[source] Box<pgp::errors::Error>),
    /// No key of the keyring made any of its signatures.
    #[error(
        "none of its {signatures} signatures is by a valid key of the keyring {keyring}; the \
         mirror's answer was changed on the way, or the keyring is too old for this release"
    )]
    Untrusted {
        /// How many signatures there were.
        signatures: usize,
        /// Which keyring.
        keyring: String,
    },
}

/// The keys that may sign an archive.
#[derive(Debug)]
pub(crate) struct Keys {
    keys: Vec<SignedPublicKey>,
    name: String,
}

impl Keys {
    /// Reads a keyring.
    pub(crate) fn load(keyring: &Keyring) -> Result<Self, SignatureError> {
        match keyring {
            Keyring::File(path) => {
                let bytes = fs::read(path).map_err(failed("read", path))?;
                Self::parse(&bytes, &path.display().to_string())
            }
            Keyring::Inline(text) => Self::parse(text.as_bytes(), "of apt's configuration"),
        }
    }

    /// Reads the keys in `bytes`, armored or not. What is no key is passed over, as apt does.
    pub(crate) fn parse(bytes: &[u8], name: &str) -> Result<Self, SignatureError> {
        let unusable = || SignatureError::Keyring {
            keyring: name.to_owned(),
        };
        let (keys, _) = SignedPublicKey::from_reader_many(bytes).map_err(|_damaged| unusable())?;
        let keys: Vec<_> = keys.filter_map(Result::ok).collect();
        if keys.is_empty() {
            return Err(unusable());
        }
        Ok(Self {
            keys,
            name: name.to_owned(),
        })
    }

    /// The text inside a signed message, once a valid key of this keyring is found to have signed
    /// exactly it.
    pub(crate) fn verify(&self, message: &str) -> Result<String, SignatureError> {
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|error| SignatureError::Unsigned(Box::new(error)))?;
        // What was hashed has CR LF at the end of lines.
        let text = message.signed_text();
        let now = Timestamp::now();
        let trusted = message.signatures().iter().any(|signature| {
            self.keys
                .iter()
                .any(|key| is_signed_by(key, signature, &text, now))
        });
        if trusted {
            Ok(text.replace("\r\n", "\n"))
        } else {
            let signatures = message.signatures().len();
            Err(SignatureError::Untrusted {
                signatures,
                keyring: self.name.clone(),
            })
        }
    }
}

/// Whether the primary key or a signing subkey made `signature`, being valid then and now.
fn is_signed_by(key: &SignedPublicKey, signature: &Signature, text: &str, now: Timestamp) -> bool {
    if !matches!(
        signature.typ(),
        Some(SignatureType::Text | SignatureType::Binary)
    ) {
        return false;
    }
    if expired(
        signature.created(),
        signature.signature_expiration_time(),
        now,
    ) {
        return false;
    }
    let Some(made) = signature.created() else {
        return false;
    };
    let Some(lifetime) = primary_lifetime(key) else {
        return false;
    };
    let valid = |created: Timestamp, lifetime| {
        created <= made
            && !expired(Some(created), lifetime, made)
            && !expired(Some(created), lifetime, now)
    };
    if !valid(key.primary_key.created_at(), lifetime) {
        return false;
    }
    if signature.verify(&key.primary_key, text.as_bytes()).is_ok() {
        return true;
    }
    key.public_subkeys.iter().any(|subkey| {
        subkey_lifetime(key, subkey)
            .is_some_and(|lifetime| valid(subkey.key.created_at(), lifetime))
            && signature.verify(&subkey.key, text.as_bytes()).is_ok()
    })
}

/// The time after which a key expires, if ever.
type Lifetime = Option<pgp::types::Duration>;

/// How long the primary key is valid by its newest self-signature; `None` when it is revoked or
/// has no valid one.
fn primary_lifetime(key: &SignedPublicKey) -> Option<Lifetime> {
    let primary = &key.primary_key;
    let revoked = key.details.revocation_signatures.iter();
    if revoked
        .into_iter()
        .any(|revocation| revocation.verify_key(primary).is_ok())
    {
        return None;
    }
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|it| it.verify_key(primary).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && signature
                    .verify_certification(primary, pgp::types::Tag::UserId, &user.id)
                    .is_ok()
        })
    });
    newest(direct.chain(users)).map(Signature::key_expiration_time)
}

/// How long a subkey may sign by its newest binding; `None` when it is revoked or may not sign.
fn subkey_lifetime(key: &SignedPublicKey, subkey: &SignedPublicSubKey) -> Option<Lifetime> {
    let bound = |signature: &&Signature| {
        signature
            .verify_subkey_binding(&key.primary_key, &subkey.key)
            .is_ok()
    };
    let of_type = |typ| {
        subkey
            .signatures
            .iter()
            .filter(move |signature| signature.typ() == Some(typ))
    };
    if of_type(SignatureType::SubkeyRevocation).any(|revocation| bound(&revocation)) {
        return None;
    }
    let binding = newest(of_type(SignatureType::SubkeyBinding).filter(bound))?;
    let back = binding.embedded_signature()?;
    (binding.key_flags().sign()
        && back
            .verify_primary_key_binding(&subkey.key, &key.primary_key)
            .is_ok())
    .then(|| binding.key_expiration_time())
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|signature| signature.created())
}

fn expired(created: Option<Timestamp>, lifetime: Lifetime, now: Timestamp) -> bool {
    match (created, lifetime) {
        (Some(created), Some(lifetime)) if lifetime.as_secs() != 0 => {
            created.as_secs().saturating_add(lifetime.as_secs()) < now.as_secs()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_expire() {
        let at = Timestamp::from_secs;
        let lifetime = |seconds| Some(pgp::types::Duration::from_secs(seconds));
        assert!(!expired(Some(at(100)), None, at(u32::MAX)));
        assert!(!expired(Some(at(100)), lifetime(0), at(u32::MAX)));
        assert!(!expired(Some(at(100)), lifetime(10), at(110)));
        assert!(expired(Some(at(100)), lifetime(10), at(111)));
        assert!(!expired(Some(at(100)), lifetime(u32::MAX), at(u32::MAX)));
    }
}
