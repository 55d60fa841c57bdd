//! Certificates: our own, and what another's says of its holder.
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, extensions::ParsedExtension, prelude::FromDer,
};

use super::{LinkError, Validity};
use crate::messages::Peer;

/// Certificate, key and authorities, in the order in which they are read.
const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// How often a set of files that changes while it is read is read again.
const READS: usize = 3;

/// The certificate and key of this part and the authorities that it trusts, read again whenever the
/// files change (kubelet swaps a symbolic link under them). Clones share what was read.
#[derive(Clone)]
pub struct Identity {
    dir: Arc<PathBuf>,
    state: Arc<RwLock<State>>,
}

struct State {
    loaded: Loaded,
    /// Files that could not be used in place of those loaded, so that they are complained about once.
    refused: Option<Stamp>,
}

#[derive(Clone)]
pub(super) struct Loaded {
    stamp: Stamp,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// As `client`, for PostgreSQL's own port: it takes no other protocol's name.
    pub(super) postgres: Arc<ClientConfig>,
    pub(super) uid: String,
    peer: Peer,
    validity: Option<Validity>,
    /// Counts the times that the files were read.
    pub(super) generation: u64,
}

/// Tells one version of the files from another: device, inode, time of change and size of each.
pub(crate) type Stamp = Vec<(u64, u64, i64, i64, u64)>;

impl Identity {
    /// Reads `tls.crt`, `tls.key` and `ca.crt` in `dir`.
    pub fn load(dir: &Path) -> Result<Self, LinkError> {
        let loaded = read(dir, 1)?;
        let state = State { loaded, refused: None };
        Ok(Self { dir: Arc::new(dir.to_path_buf()), state: Arc::new(RwLock::new(state)) })
    }

    /// The pool that the certificate belongs to.
    pub fn pool_uid(&self) -> String {
        self.current().uid
    }

    /// The part that the certificate belongs to.
    pub fn peer(&self) -> Peer {
        self.current().peer
    }

    /// Since when and until when the certificate is valid.
    pub fn validity(&self) -> Option<Validity> {
        self.current().validity
    }

    /// TLS towards PostgreSQL on a node: shows this part's certificate, and wants the node's.
    pub fn to_postgres(&self) -> Arc<ClientConfig> {
        self.current().postgres
    }

    /// What is in force, after a look at the files.
    pub(super) fn current(&self) -> Loaded {
        let (loaded, refused) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            (state.loaded.clone(), state.refused.clone())
        };
        let Ok(stamp) = stamp_of(&self.dir, &FILES) else { return loaded };
        if stamp == loaded.stamp || Some(&stamp) == refused.as_ref() {
            return loaded;
        }
        let read = read(&self.dir, loaded.generation + 1);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(new) => {
                tracing::info!(dir = %self.dir.display(), "certificates were renewed");
                *state = State { loaded: new, refused: None };
            }
            Err(error) => {
                tracing::warn!(%error, "new certificates can't be used; the former ones stay");
                state.refused = Some(stamp);
            }
        }
        state.loaded.clone()
    }
}

/// Reads the files until none of them changes under the reading.
fn read(dir: &Path, generation: u64) -> Result<Loaded, LinkError> {
    let mut last = build(dir, stamp_of(dir, &FILES)?, generation);
    for _ in 1..READS {
        let now = stamp_of(dir, &FILES)?;
        match &last {
            Ok(loaded) if loaded.stamp == now => break,
            _ => last = build(dir, now, generation),
        }
    }
    last
}

/// The stamp of these files in a folder.
pub(crate) fn stamp_of(dir: &Path, files: &[&str]) -> Result<Stamp, LinkError> {
    let one = |file: &&str| {
        let path = dir.join(file);
        let found = fs::metadata(&path).map_err(|source| LinkError::File { path, source })?;
        Ok((found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.size()))
    };
    files.iter().map(one).collect()
}

/// Ring, passed explicitly everywhere: nothing is installed for the whole process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn build(dir: &Path, stamp: Stamp, generation: u64) -> Result<Loaded, LinkError> {
    let content = |reason: String| LinkError::Content { path: dir.to_path_buf(), reason };
    let tls = |error: rustls::Error| content(error.to_string());
    let chain = certificates(&dir.join(FILES[0]))?;
    let key = private_key(&dir.join(FILES[1]))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&dir.join(FILES[2]))? {
        roots.add(authority).map_err(tls)?;
    }
    let roots = Arc::new(roots);
    let leaf = chain.first().ok_or_else(|| content(format!("{} is empty", FILES[0])))?;
    let (uid, peer) = peer_of(leaf)?;
    let validity = Validity::of(leaf);

    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
        .build()
        .map_err(|error| content(error.to_string()))?;
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(tls)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(tls)?;
    client.resumption = Resumption::disabled();
    let postgres = Arc::new(client.clone());
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (server, client) = (Arc::new(server), Arc::new(client));
    Ok(Loaded { stamp, server, client, postgres, uid, peer, validity, generation })
}

fn pem_error(path: &Path, error: pem::Error) -> LinkError {
    match error {
        pem::Error::Io(source) => LinkError::File { path: path.to_path_buf(), source },
        other => LinkError::Content { path: path.to_path_buf(), reason: other.to_string() },
    }
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LinkError> {
    let text = fs::read(path).map_err(|source| LinkError::File { path: path.to_path_buf(), source })?;
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem_error(path, error))?;
    if found.is_empty() {
        let source = io::Error::new(io::ErrorKind::InvalidData, "no certificate in it");
        return Err(LinkError::File { path: path.to_path_buf(), source });
    }
    Ok(found)
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, LinkError> {
    let text = fs::read(path).map_err(|source| LinkError::File { path: path.to_path_buf(), source })?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| pem_error(path, error))
}

/// The pool's uid and the part that a certificate was made for. The certificate must have been verified.
pub fn peer_of(certificate: &CertificateDer<'_>) -> Result<(String, Peer), LinkError> {
    let wrong = |reason: &str| LinkError::Certificate { reason: reason.to_owned() };
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| wrong(&error.to_string()))?;
    let names = parsed.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(names.general_names.iter()),
        _ => None,
    });
    let mut ours = names.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("pgpool://"),
        _ => None,
    });
    let uri = ours.next().ok_or_else(|| wrong("it has no URI name pgpool://…"))?;
    if ours.next().is_some() {
        return Err(wrong("it has several URI names pgpool://…"));
    }
    parse(uri).ok_or_else(|| wrong(&format!("pgpool://{uri} is none that is given out")))
}

fn parse(uri: &str) -> Option<(String, Peer)> {
    let (uid, part) = uri.split_once('/')?;
    if uid.is_empty() {
        return None;
    }
    let peer = match part {
        "proxy" => Peer::Proxy,
        "recovery" => Peer::Recovery,
        "operator" => Peer::Operator,
        other => {
            let digits = other.strip_prefix("node/")?;
            let index: u8 = digits.parse().ok()?;
            // Only one way of writing a number, so that no two names mean one node.
            if index.to_string() != digits {
                return None;
            }
            Peer::Node(index)
        }
    };
    Some((uid.to_owned(), peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_part_of_which_pool() {
        assert_eq!(parse("u-1/node/14"), Some(("u-1".into(), Peer::Node(14))));
        assert_eq!(parse("u/proxy"), Some(("u".into(), Peer::Proxy)));
        assert_eq!(parse("u/recovery"), Some(("u".into(), Peer::Recovery)));
        assert_eq!(parse("u/operator"), Some(("u".into(), Peer::Operator)));
        for bad in [
            "",
            "u",
            "/proxy",
            "u/node",
            "u/node/",
            "u/node/01",
            "u/node/+1",
            "u/node/256",
            "u/x",
            "u/proxy/",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
