//! The helm program, and the chart.
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of Kubernetes that the chart is rendered for.
const KUBERNETES: &str = "1.34.0";

/// The chart's folder.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/pgpool-operator")
}

/// What `helm template` prints for the release `pgpool-operator` in `namespace`; its words where it refuses.
pub fn template(namespace: &str, args: &[&str]) -> Result<String, String> {
    template_of(&chart(), namespace, args)
}

/// The same of another chart.
pub fn template_of(chart: &Path, namespace: &str, args: &[&str]) -> Result<String, String> {
    let fixed = ["template", "pgpool-operator", "--namespace", namespace, "--kube-version", KUBERNETES];
    helm(&[&fixed, args, &[chart.to_str().unwrap()]].concat())
}

/// Runs helm: the program named by `PGPOOL_HELM`, else the one in the PATH.
pub fn helm(args: &[&str]) -> Result<String, String> {
    let program = env::var_os("PGPOOL_HELM").unwrap_or_else(|| "helm".into());
    let output = Command::new(&program).args(args).output().unwrap_or_else(|error| {
        panic!("{}: {error}; put helm in the PATH or name it by PGPOOL_HELM", program.display())
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(text(&output.stdout) + &text(&output.stderr))
}
