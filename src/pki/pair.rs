//! A certificate and a key that a user has brought.
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, crypto::ring};

use super::{PkiError, expires};

/// When the certificate ends, if a server can be run with the two.
pub fn check_pair(cert_pem: &str, key_pem: &str) -> Result<Timestamp, PkiError> {
    let wrong = |reason: String| PkiError::NoPair { reason };
    let chain = CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| PkiError::NoCertificate { reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(PkiError::NoCertificate { reason: "there is no PEM block".to_owned() });
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
    let key = key.map_err(|error| wrong(format!("the key can't be read: {error}")))?;
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong(error.to_string()))?;
    expires(cert_pem)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pki::{Authority, Leaf};

    #[test]
    fn only_what_belongs_together_can_be_served() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let authority = Authority::generate("ca", now, Duration::from_secs(7200)).unwrap();
        let leaf = |name| {
            let dns = [format!("{name}.example")];
            let order =
                Leaf { common_name: name, uri: "urn:x", dns: &dns, now, validity: Duration::from_secs(3600) };
            authority.issue(&order).unwrap()
        };
        let (one, other) = (leaf("one"), leaf("other"));
        assert_eq!(check_pair(&one.cert_pem, &one.key_pem).unwrap().as_second(), 1_800_003_600);
        for (cert, key) in [
            (one.cert_pem.as_str(), other.key_pem.as_str()),
            (&one.cert_pem, "rubbish"),
            ("rubbish", &one.key_pem),
            (&one.key_pem, &one.key_pem),
        ] {
            let told = check_pair(cert, key).unwrap_err().to_string();
            assert!(!told.contains("PRIVATE"), "{told}");
        }
    }
}
