//! A throwaway authority and certificates for tests.
use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject as _};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::{Identity, provider};

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes the three files of a part into `dir`. `uri` is the name after `pgpool://`.
    pub(crate) fn write(&self, dir: &Path, uri: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        let uri = Ia5String::try_from(format!("pgpool://{uri}")).unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params.distinguished_name.push(DnType::CommonName, "pgpool_replication");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        fs::write(dir.join("tls.crt"), leaf.pem()).unwrap();
        fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        fs::write(dir.join("ca.crt"), self.0.pem()).unwrap();
    }

    /// TLS of a client that trusts this authority and shows no certificate.
    pub(crate) fn trusting(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        builder.with_root_certificates(roots).with_no_client_auth()
    }

    /// An identity and the folder that it lives in.
    pub(crate) fn identity(&self, uri: &str, hosts: &[&str]) -> (Identity, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        self.write(dir.path(), uri, hosts);
        (Identity::load(dir.path()).unwrap(), dir)
    }
}

/// TLS as a server that wants certificates of the pool.
pub(crate) fn acceptor(identity: &Identity) -> TlsAcceptor {
    TlsAcceptor::from(identity.current().server)
}
