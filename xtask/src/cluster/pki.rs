//! The cluster's certificates, and the kubeconfigs that carry them.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use super::layout::{self, KUBERNETES, Machine, NODES};
use crate::error::{Error, Result};
use crate::files;

/// The group that may do everything.
const ADMINS: &str = "system:masters";

/// A certificate authority for one cluster.
struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

fn named(name: &str) -> impl Fn(rcgen::Error) -> Error {
    move |source| Error::Certificate { name: name.to_owned(), source }
}

impl Authority {
    fn new() -> Result<Self> {
        let failed = named("ca");
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "pgpool-cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(&failed)?.pem();
        let pem = key.serialize_pem();
        Ok(Self { certificate, key: pem, issuer: Issuer::new(params, key) })
    }

    /// A certificate for both ends of a connection: certificate and key as PEM.
    fn issue(&self, user: &str, group: Option<&str>, names: &[String]) -> Result<(String, String)> {
        let failed = named(user);
        let key = KeyPair::generate().map_err(&failed)?;
        let mut params = CertificateParams::new(names).map_err(&failed)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(&failed)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    fn kubeconfig(&self, cluster: &str, user: &str, group: Option<&str>) -> Result<String> {
        let (certificate, key) = self.issue(user, group, &[])?;
        Ok(kubeconfig(cluster, &self.certificate, &certificate, &key))
    }
}

/// A kubeconfig with everything inside. JSON is YAML, and needs no quoting by hand.
fn kubeconfig(cluster: &str, ca: &str, certificate: &str, key: &str) -> String {
    let name = format!("pgpool-{cluster}");
    let document = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": {
            "server": layout::api_server(), "certificate-authority-data": STANDARD.encode(ca) } }],
        "users": [{ "name": name, "user": {
            "client-certificate-data": STANDARD.encode(certificate), "client-key-data": STANDARD.encode(key) } }],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
        "current-context": name,
    });
    format!("{document:#}\n")
}

/// Writes all certificates and kubeconfigs of a cluster into a folder.
pub fn create(cluster: &str, dir: &Path) -> Result<()> {
    let ca = Authority::new()?;
    let put = |name: &str, text: &str| files::write_private(&dir.join(name), text);
    put("ca.crt", &ca.certificate)?;
    put("ca.key", &ca.key)?;
    let pair = |name: &str, user: &str, group: Option<&str>, names: &[String]| {
        let (certificate, key) = ca.issue(user, group, names)?;
        put(&format!("{name}.crt"), &certificate)?;
        put(&format!("{name}.key"), &key)
    };
    let mut names: Vec<String> = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(String::from)
    .to_vec();
    names.extend(["localhost", "127.0.0.1"].map(String::from));
    names.push(KUBERNETES.to_string());
    names.extend(Machine::Control.address().map(|a| a.to_string()));
    pair("apiserver", "kube-apiserver", None, &names)?;
    pair("kubelet-client", "kube-apiserver-kubelet-client", Some(ADMINS), &[])?;
    let tokens = KeyPair::generate().map_err(named("service accounts"))?;
    put("sa.key", &tokens.serialize_pem())?;
    put("sa.pub", &tokens.public_key_pem())?;
    for (file, user, group) in [
        ("admin", "admin", Some(ADMINS)),
        ("controllers", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("proxy", "system:kube-proxy", None),
        ("netpol", "netpol", Some(ADMINS)),
    ] {
        put(&format!("{file}.kubeconfig"), &ca.kubeconfig(cluster, user, group)?)?;
    }
    for node in NODES {
        let user = format!("system:node:{node}");
        let text = ca.kubeconfig(cluster, &user, Some("system:nodes"))?;
        put(&format!("kubelet-{node}.kubeconfig"), &text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn every_key_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        create("x", dir.path()).unwrap();
        let files = files::walk(dir.path()).unwrap();
        assert_eq!(files.len(), 2 + 4 + 2 + 5 + 3);
        for file in files {
            let mode = std::fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", file.display());
        }
    }

    #[test]
    fn a_kubeconfig_names_its_cluster_and_the_api_server() {
        let text = kubeconfig("dev", "ca", "crt", "key");
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["current-context"], "pgpool-dev");
        assert_eq!(document["clusters"][0]["cluster"]["server"], "https://10.77.0.10:6443");
        assert_eq!(document["users"][0]["user"]["client-key-data"], "a2V5");
    }
}
