//! The certificate that clients see: the user's own, or the one that the pool's authority has made for the front.
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use ring::digest;
use rustls::{
    ServerConfig,
    pki_types::CertificateDer,
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::auth::Binding;
use crate::link::{LinkError, Stamp, certificates, private_key, provider, stamp_of};

/// Certificate with its chain, and key: a Secret of type kubernetes.io/tls.
const FILES: [&str; 2] = ["tls.crt", "tls.key"];
/// The protocol's name in TLS (PostgreSQL documentation, "SSL Session Encryption").
pub const ALPN: &[u8] = b"postgresql";

/// TLS as it is served.
#[derive(Clone)]
pub struct Served {
    /// Its configuration.
    pub config: Arc<ServerConfig>,
    /// What a login can be bound to.
    pub binding: Binding,
}

/// The certificate, read again whenever its files change.
pub struct Certificate {
    /// The first of these that has the files counts.
    dirs: Vec<PathBuf>,
    state: RwLock<State>,
}

struct State {
    served: Served,
    stamp: (usize, Stamp),
    /// Files that can't be used, so that they are complained about once.
    refused: Option<(usize, Stamp)>,
}

impl Certificate {
    /// Of the first of these folders that has one.
    pub fn load(dirs: &[&Path]) -> Result<Self, LinkError> {
        let dirs: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
        let mut refused = None;
        let mut last = None;
        for (place, dir) in dirs.iter().enumerate() {
            let read = stamp_of(dir, &FILES).and_then(|stamp| Ok((read(dir)?, (place, stamp))));
            match read {
                Ok((served, stamp)) => {
                    return Ok(Self { dirs, state: RwLock::new(State { served, stamp, refused }) });
                }
                Err(error) => {
                    refused = complain(dir, place, &error).or(refused);
                    last = Some(error);
                }
            }
        }
        let nowhere = || LinkError::Content { path: PathBuf::new(), reason: "no folder was named".into() };
        Err(last.unwrap_or_else(nowhere))
    }

    /// What is in force, after a look at the files.
    pub fn current(&self) -> Served {
        let (served, stamp, refused) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.served.clone(), state.stamp.clone(), state.refused.clone())
        };
        let found = self.dirs.iter().enumerate().find_map(|(place, dir)| {
            let stamp = stamp_of(dir, &FILES).ok()?;
            Some((place, stamp))
        });
        let Some(found) = found.filter(|found| *found != stamp && Some(found) != refused.as_ref()) else {
            return served;
        };
        let read = read(&self.dirs[found.0]);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(served) => {
                tracing::info!(dir = %self.dirs[found.0].display(), "clients see another certificate from now on");
                *state = State { served, stamp: found, refused: None };
            }
            // Files that are being replaced are looked at again.
            Err(_) if stamp_of(&self.dirs[found.0], &FILES).ok().as_ref() != Some(&found.1) => {}
            Err(error) => {
                tracing::warn!(%error, "a new certificate for clients can't be used; the former one stays");
                state.refused = Some(found);
            }
        }
        state.served.clone()
    }
}

/// A folder without the files is passed over; files that can't be used are worth a word.
fn complain(dir: &Path, place: usize, error: &LinkError) -> Option<(usize, Stamp)> {
    let stamp = stamp_of(dir, &FILES).ok()?;
    tracing::warn!(%error, "a certificate for clients can't be used");
    Some((place, stamp))
}

fn read(dir: &Path) -> Result<Served, LinkError> {
    let content =
        |error: rustls::Error| LinkError::Content { path: dir.to_path_buf(), reason: error.to_string() };
    let chain = certificates(&dir.join(FILES[0]))?;
    let binding = chain.first().map_or(Binding::None, binding);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(content)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key(&dir.join(FILES[1]))?)
        .map_err(content)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Served { config: Arc::new(config), binding })
}

/// The hash that `tls-server-end-point` wants: that of the certificate's own signature, SHA-256 in place of those that
/// are broken (RFC 5929, section 4.1). None where the signature names no hash.
fn binding(leaf: &CertificateDer<'_>) -> Binding {
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return Binding::None };
    let algorithm = match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // MD5 and SHA-1 with RSA, SHA-1 and SHA-256 with ECDSA, SHA-256 with RSA.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.2.840.113549.1.1.11" => &digest::SHA256,
        "1.2.840.10045.4.3.3" | "1.2.840.113549.1.1.12" => &digest::SHA384,
        "1.2.840.10045.4.3.4" | "1.2.840.113549.1.1.13" => &digest::SHA512,
        _ => return Binding::None,
    };
    Binding::EndPoint(digest::digest(algorithm, leaf).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::link::testing::Authority;

    #[test]
    fn the_users_own_certificate_comes_first_and_is_read_anew() {
        let authority = Authority::new();
        let (own, users) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        authority.write(own.path(), "u/proxy", &["front"]);
        let certificate = Certificate::load(&[users.path(), own.path()]).unwrap();
        let first = certificate.current().binding;
        assert!(first.offered());
        authority.write(users.path(), "x/proxy", &["db.example"]);
        let second = certificate.current().binding;
        assert_ne!(first, second);
        assert_eq!(certificate.current().binding, second);

        fs::write(users.path().join("tls.crt"), "rubbish").unwrap();
        assert_eq!(certificate.current().binding, second, "what can't be used changes nothing");
        for file in FILES {
            fs::remove_file(users.path().join(file)).unwrap();
        }
        assert_eq!(certificate.current().binding, first, "taken away again");
        assert!(Certificate::load(&[users.path()]).is_err());
    }
}
