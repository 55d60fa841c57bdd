//! The certificate that clients see: the user's own, or the one that the pool's authority has made for the front.
use std::{
    collections::HashMap,
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
use crate::link::{LinkError, Stamp, Validity, certificates, private_key, provider, stamp_of};

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
    /// Since when and until when it is valid.
    pub validity: Option<Validity>,
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
    /// Files that can't be used, by place, so that they are complained about once.
    refused: HashMap<usize, Stamp>,
}

impl Certificate {
    /// Of the first of these folders that has one.
    pub fn load(dirs: &[&Path]) -> Result<Self, LinkError> {
        let dirs: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
        let mut refused = HashMap::new();
        let mut last = None;
        for (place, dir) in dirs.iter().enumerate() {
            // A folder without the files is passed over; files that can't be used are worth a word.
            let stamp = match stamp_of(dir, &FILES) {
                Ok(stamp) => stamp,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match read(dir) {
                Ok(served) => {
                    let state = State { served, stamp: (place, stamp), refused };
                    return Ok(Self { dirs, state: RwLock::new(state) });
                }
                Err(error) => {
                    tracing::warn!(%error, "a certificate for clients can't be used");
                    refused.insert(place, stamp);
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
        for (place, dir) in self.dirs.iter().enumerate() {
            let Ok(found) = stamp_of(dir, &FILES) else { continue };
            let served_from_here = place == stamp.0;
            if served_from_here && found == stamp.1 {
                break;
            }
            if refused.get(&place) != Some(&found)
                && let Some(served) = self.take(place, found)
            {
                return served;
            }
            // What replaces the one that is served can't be used: the former one stays.
            if served_from_here {
                break;
            }
        }
        served
    }

    /// Serves what is at this place from now on, if it can be used.
    fn take(&self, place: usize, found: Stamp) -> Option<Served> {
        let dir = &self.dirs[place];
        let read = read(dir);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(served) => {
                tracing::info!(dir = %dir.display(), "clients see another certificate from now on");
                state.served = served.clone();
                state.stamp = (place, found);
                return Some(served);
            }
            // Files that are being replaced are looked at again.
            Err(_) if stamp_of(dir, &FILES).ok().as_ref() != Some(&found) => {}
            Err(error) => {
                tracing::warn!(%error, "a new certificate for clients can't be used; the former one stays");
                state.refused.insert(place, found);
            }
        }
        None
    }
}

fn read(dir: &Path) -> Result<Served, LinkError> {
    let content =
        |error: rustls::Error| LinkError::Content { path: dir.to_path_buf(), reason: error.to_string() };
    let chain = certificates(&dir.join(FILES[0]))?;
    let binding = chain.first().map_or(Binding::None, binding);
    let validity = chain.first().and_then(Validity::of);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(content)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key(&dir.join(FILES[1]))?)
        .map_err(content)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Served { config: Arc::new(config), binding, validity })
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
        assert!(certificate.current().validity.is_some_and(|valid| valid.not_before < valid.not_after));
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

        fs::write(users.path().join("tls.crt"), "rubbish").unwrap();
        fs::write(users.path().join("tls.key"), "rubbish").unwrap();
        let certificate = Certificate::load(&[users.path(), own.path()]).unwrap();
        assert_eq!(certificate.current().binding, first);
        authority.write(own.path(), "u/proxy", &["front"]);
        let renewed = certificate.current().binding;
        assert_ne!(renewed, first, "a renewed one is taken although another place has what can't be used");
        assert_eq!(certificate.current().binding, renewed);
        for file in FILES {
            fs::remove_file(users.path().join(file)).unwrap();
        }
        assert!(Certificate::load(&[users.path()]).is_err());
    }
}
