//! A certificate authority of one pool, and the leaves that it signs.
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use x509_parser::pem::Pem;
use x509_parser::x509::X509Version;

use super::PkiError;

/// How much earlier than `now` a certificate begins, for clocks that are late.
const EARLIER: Duration = Duration::from_secs(300);

/// What a leaf shall say.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// Common name: the role that PostgreSQL maps the certificate to.
    pub common_name: &'a str,
    /// `pgpool://<poolUid>/…`: which part of which pool this is.
    pub uri: &'a str,
    /// Host names under which it is reached; none for a client.
    pub dns: &'a [String],
    /// When it is made.
    pub now: Timestamp,
    /// How long after `now` it ends.
    pub validity: Duration,
}

/// A leaf with its private key, in PEM form.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// A certificate authority with its private key.
pub struct Authority {
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority with a new key; signs leaves only, no further authorities.
    pub fn generate(common_name: &str, now: Timestamp, validity: Duration) -> Result<Self, PkiError> {
        let key = new_key(common_name)?;
        let mut params = params(common_name, now, validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert_pem = params.self_signed(&key).map_err(|source| make(common_name, source))?.pem();
        Ok(Self { cert_pem, issuer: Issuer::new(params, key) })
    }

    /// The authority whose certificate is the first of `cert_pem` (a bundle while rotating) and whose
    /// key is `key_pem`; refused when the two don't belong together.
    pub fn load(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let pem = first(cert_pem)?;
        let cert = pem.parse_x509().map_err(|error| no_certificate(&error))?;
        let subject = cert.subject().to_string();
        if cert.version() != X509Version::V3 || !cert.is_ca() {
            return Err(PkiError::NoAuthority { subject });
        }
        let key = KeyPair::from_pem(key_pem).map_err(|source| PkiError::NoKey { source })?;
        if cert.public_key().raw != key.subject_public_key_info() {
            return Err(PkiError::WrongKey { subject });
        }
        let issuer = Issuer::from_ca_cert_der(&pem.contents.as_slice().into(), key)
            .map_err(|source| make(&subject, source))?;
        Ok(Self { cert_pem: cert_pem.to_owned(), issuer })
    }

    /// The certificate as it was made or loaded.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The private key; for the Secret of the authority alone.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A leaf with a new key: client and server certificate in one, no authority.
    pub fn issue(&self, leaf: &Leaf<'_>) -> Result<Issued, PkiError> {
        let name = leaf.common_name;
        let key = new_key(name)?;
        let mut params = params(name, leaf.now, leaf.validity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.push(SanType::URI(ia5(name, leaf.uri)?));
        for host in leaf.dns {
            params.subject_alt_names.push(SanType::DnsName(ia5(name, host)?));
        }
        let cert_pem = params.signed_by(&key, &self.issuer).map_err(|source| make(name, source))?.pem();
        Ok(Issued { cert_pem, key_pem: key.serialize_pem() })
    }
}

/// When the (first) certificate ends.
pub fn expires(cert_pem: &str) -> Result<Timestamp, PkiError> {
    Ok(validity(cert_pem)?.1)
}

/// When the (first) certificate is to be replaced: after two thirds of its time.
pub fn renew_at(cert_pem: &str) -> Result<Timestamp, PkiError> {
    let (begin, end) = validity(cert_pem)?;
    let seconds = begin.as_second() + (end.as_second() - begin.as_second()) / 3 * 2;
    Timestamp::from_second(seconds).map_err(|error| PkiError::NoCertificate { reason: error.to_string() })
}

fn validity(cert_pem: &str) -> Result<(Timestamp, Timestamp), PkiError> {
    let pem = first(cert_pem)?;
    let cert = pem.parse_x509().map_err(|error| no_certificate(&error))?;
    let read = |seconds| {
        Timestamp::from_second(seconds).map_err(|error| PkiError::NoCertificate { reason: error.to_string() })
    };
    let validity = cert.validity();
    Ok((read(validity.not_before.timestamp())?, read(validity.not_after.timestamp())?))
}

fn first(cert_pem: &str) -> Result<Pem, PkiError> {
    let mut found = Pem::iter_from_buffer(cert_pem.as_bytes());
    let pem = found.next().ok_or(PkiError::NoCertificate { reason: "there is no PEM block".to_owned() })?;
    let pem = pem.map_err(|error| PkiError::NoCertificate { reason: error.to_string() })?;
    if pem.label == "CERTIFICATE" {
        return Ok(pem);
    }
    Err(PkiError::NoCertificate { reason: format!("its first block is a {}", pem.label) })
}

fn params(name: &str, now: Timestamp, validity: Duration) -> Result<CertificateParams, PkiError> {
    let refused = || PkiError::Validity { name: name.to_owned() };
    let begin = now.checked_sub(EARLIER).map_err(|_| refused())?;
    let end = now.checked_add(validity).map_err(|_| refused())?;
    // rcgen's times come from a crate that is no dependency of ours: they are made by adding to its epoch.
    let moment = |at: Timestamp| {
        let seconds = u64::try_from(at.as_second()).map_err(|_| refused())?;
        Ok(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds))
    };
    let mut params = CertificateParams::default();
    params.not_before = moment(begin)?;
    params.not_after = moment(end)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn new_key(name: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| make(name, source))
}

fn ia5(name: &str, value: &str) -> Result<Ia5String, PkiError> {
    Ia5String::try_from(value).map_err(|_| PkiError::Name { name: name.to_owned(), value: value.to_owned() })
}

fn make(name: &str, source: rcgen::Error) -> PkiError {
    PkiError::Make { name: name.to_owned(), source }
}

fn no_certificate(error: &impl fmt::Display) -> PkiError {
    PkiError::NoCertificate { reason: error.to_string() }
}

#[cfg(test)]
mod tests;
