//! What the Kubernetes API answered, in words for people.

/// The API's own message where there is one; the debugging form of its answer helps nobody.
pub fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}
