use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::extensions::GeneralName;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn noon() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn leaf(authority: &Authority) -> Issued {
    let dns = ["birch-2-0.birch-nodes.forest.svc".to_owned(), "localhost".to_owned()];
    let leaf = Leaf {
        common_name: "pgpool_replication",
        uri: "pgpool://4f2a9c/node/2",
        dns: &dns,
        now: noon(),
        validity: 90 * DAY,
    };
    authority.issue(&leaf).unwrap()
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn roots(authority: &Authority) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(der(authority.cert_pem())).unwrap();
    Arc::new(store)
}

/// Whether a TLS client that trusts `authority` accepts `leaf` of `host` at `at`.
fn accepted_of(authority: &Authority, leaf: &Issued, host: &'static str, at: Timestamp) -> bool {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(authority), provider).build().unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at.as_second()).unwrap()));
    let host = ServerName::try_from(host).unwrap();
    verifier.verify_server_cert(&der(&leaf.cert_pem), &[], &host, &[], at).is_ok()
}

/// Whether a TLS server that trusts `authority` accepts `leaf` of a client at noon.
fn accepted_from(authority: &Authority, leaf: &Issued) -> bool {
    let provider = Arc::new(default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority), provider).build().unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(noon().as_second()).unwrap()));
    verifier.verify_client_cert(&der(&leaf.cert_pem), &[], at).is_ok()
}

#[test]
fn a_leaf_is_trusted_as_client_and_server_by_its_own_authority_alone() {
    let ours = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let other = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let issued = leaf(&ours);
    assert!(accepted_of(&ours, &issued, "birch-2-0.birch-nodes.forest.svc", noon()));
    assert!(accepted_from(&ours, &issued));
    assert!(!accepted_of(&other, &issued, "birch-2-0.birch-nodes.forest.svc", noon()));
    assert!(!accepted_from(&other, &issued));
    assert!(!accepted_of(&ours, &issued, "birch-1-0.birch-nodes.forest.svc", noon()));
}

#[test]
fn a_leaf_is_valid_from_five_minutes_before_to_its_end() {
    let ours = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let issued = leaf(&ours);
    let at = |seconds: i64| Timestamp::from_second(noon().as_second() + seconds).unwrap();
    let end = 90 * 24 * 3600;
    for (seconds, good) in [(-301, false), (-299, true), (0, true), (end - 1, true), (end + 1, false)] {
        assert_eq!(accepted_of(&ours, &issued, "localhost", at(seconds)), good, "{seconds} s");
    }
    assert_eq!(expires(&issued.cert_pem).unwrap(), at(end));
    let renew = renew_at(&issued.cert_pem).unwrap().as_second() - noon().as_second();
    assert!((renew - 60 * 24 * 3600).abs() < 300, "{renew}");
}

#[test]
fn a_leaf_says_who_it_is() {
    let ours = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let issued = leaf(&ours);
    let bytes = der(&issued.cert_pem);
    let (_, cert) = x509_parser::parse_x509_certificate(&bytes).unwrap();
    assert_eq!(cert.subject().to_string(), "CN=pgpool_replication");
    assert_eq!(cert.issuer().to_string(), "CN=pool birch");
    assert!(!cert.is_ca());
    let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(names.contains(&GeneralName::URI("pgpool://4f2a9c/node/2")), "{names:?}");
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth);
}

#[test]
fn an_authority_goes_on_after_it_was_stored() {
    let ours = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let again = Authority::load(ours.cert_pem(), &ours.key_pem()).unwrap();
    assert!(accepted_of(&ours, &leaf(&again), "localhost", noon()));
}

#[test]
fn a_bundle_signs_with_its_first_certificate() {
    let new = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let old = Authority::generate("pool birch", noon(), 30 * DAY).unwrap();
    let bundle = format!("{}{}", new.cert_pem(), old.cert_pem());
    let loaded = Authority::load(&bundle, &new.key_pem()).unwrap();
    assert!(accepted_of(&new, &leaf(&loaded), "localhost", noon()));
    assert_eq!(expires(&bundle).unwrap(), expires(new.cert_pem()).unwrap());
}

#[test]
fn what_is_no_authority_is_refused_with_its_reason() {
    let ours = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let other = Authority::generate("pool oak", noon(), 3650 * DAY).unwrap();
    let issued = leaf(&ours);
    let cases = [
        (Authority::load("", &ours.key_pem()), "holds no certificate"),
        (Authority::load(&ours.key_pem(), &ours.key_pem()), "its first block is a PRIVATE KEY"),
        (Authority::load(ours.cert_pem(), "nonsense"), "private key"),
        (
            Authority::load(ours.cert_pem(), &other.key_pem()),
            "doesn't belong to the certificate \"CN=pool birch\"",
        ),
        (Authority::load(&issued.cert_pem, &issued.key_pem), "isn't that of a certificate authority"),
    ];
    for (got, wish) in cases {
        let error = got.expect_err(wish).to_string();
        assert!(error.contains(wish), "{error}");
    }
}

#[test]
fn names_and_times_that_fit_no_certificate_are_refused() {
    let ours = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let ask = |uri, validity| {
        let leaf = Leaf { common_name: "birch", uri, dns: &[], now: noon(), validity };
        ours.issue(&leaf).expect_err("refused").to_string()
    };
    assert!(ask("pgpool://ä", DAY).contains("only ASCII"));
    assert!(ask("pgpool://a", 10_000_000 * DAY).contains("validity"));
}

#[test]
fn nothing_printed_for_debugging_shows_a_key() {
    let ours = Authority::generate("pool birch", noon(), 3650 * DAY).unwrap();
    let issued = leaf(&ours);
    assert!(!format!("{ours:?}{issued:?}").contains("PRIVATE KEY"));
}
