//! What stands in Secrets stands nowhere else.
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::failover::primary;
use super::harness::{Outcome, ensure};
use super::pool::{NODES, WHOLE};
use super::processes::{Part, is_ours, part_of, user_of};
use super::world::{SPACE, SYSTEM, World, until};

/// Keys of Secrets whose values as a whole are nobody else's business; what else holds a secret (`uri`, `pgpass`) holds one of them.
const WORDS: [&str; 1] = ["password"];
/// The end of the names of keys with a private key in PEM.
const KEY: &str = ".key";
/// Shorter values may stand anywhere by chance.
const SHORTEST: usize = 8;
/// All that a person may list of a namespace, but for its Secrets.
const OBJECTS: &str = "pgpools,pgpoolmemberships,pods,statefulsets,deployments,replicasets,jobs,services,configmaps,events,\
                       persistentvolumeclaims,leases,networkpolicies,roles,rolebindings,serviceaccounts";
const SPACES: [&str; 2] = [SPACE, SYSTEM];

/// A place that was looked through.
struct Place {
    name: String,
    text: String,
}

/// No password, no private key and no SCRAM verifier stands in a log, an event, a status, another object, or in the arguments of a
/// process; and none of our own programs would write what it knows into a core dump.
pub async fn nowhere_else(world: &World) -> Outcome {
    let secrets = secrets(world).await?;
    let mut places = vec![arguments()?];
    for space in SPACES {
        let text = world.kubectl(&["-n", space, "get", OBJECTS, "-o", "yaml"]).await?;
        places.push(Place { name: format!("an object in {space}"), text });
        places.extend(logs(world, space).await?);
    }
    let bytes: usize = places.iter().map(|place| place.text.len()).sum();
    println!("    {} secrets, {} places of {} KiB", secrets.len(), places.len(), bytes / 1024);
    let mut found = BTreeSet::new();
    for place in &places {
        ensure(!place.text.is_empty(), || format!("{} is empty", place.name))?;
        let told = secrets.iter().filter(|(_, secret)| place.text.contains(secret.as_str()));
        // Their names alone: whoever reads this is not to learn them either.
        found.extend(told.map(|(name, _)| format!("{name} stands in {}", place.name)));
    }
    ensure(found.is_empty(), || format!("{found:?}"))?;
    undumped(world).await
}

/// What is looked for, by where it stands.
async fn secrets(world: &World) -> Outcome<Vec<(String, String)>> {
    let mut all = Vec::new();
    for space in SPACES {
        let api: Api<Secret> = Api::namespaced(world.client.clone(), space);
        for secret in api.list(&ListParams::default()).await? {
            let name = secret.name_any();
            for (key, value) in secret.data.unwrap_or_default() {
                let text = String::from_utf8_lossy(&value.0).into_owned();
                let telling = if WORDS.contains(&key.as_str()) {
                    Some(text)
                } else {
                    // The middle of a key in PEM: its lines are written in one way.
                    let lines: Vec<&str> = text.lines().collect();
                    key.ends_with(KEY)
                        .then(|| lines.get(lines.len() / 2).copied().unwrap_or_default().to_owned())
                };
                let telling = telling.filter(|text| text.len() >= SHORTEST);
                all.extend(telling.map(|text| (format!("{key} of Secret {space}/{name}"), text)));
            }
        }
    }
    let of_keys = all.iter().filter(|(name, _)| name.contains(KEY)).count();
    ensure(of_keys > 1 && all.len() > of_keys, || "there are no passwords, or no keys".to_owned())?;
    let verifiers = "SELECT rolname || ' ' || split_part(rolpassword, '$', 3) FROM pg_authid WHERE rolpassword IS NOT NULL";
    let told = world.psql(primary(world).await?, "postgres", verifiers).await?;
    let verifier = |line: &str| {
        let (role, keys) = line.split_once(' ')?;
        Some((format!("the verifier of {role}"), keys.to_owned()))
    };
    let before = all.len();
    all.extend(told.lines().filter_map(verifier));
    ensure(all.len() > before, || format!("there are no verifiers: {told}"))?;
    Ok(all)
}

/// The arguments of all processes of this machine, those in pods among them.
fn arguments() -> Outcome<Place> {
    let mut text = String::new();
    for process in fs::read_dir("/proc")?.flatten() {
        // Some have ended since.
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&words).replace('\0', " "));
        text.push('\n');
    }
    Ok(Place { name: "the arguments of a process".to_owned(), text })
}

/// What the containers of a namespace have logged.
async fn logs(world: &World, space: &str) -> Outcome<Vec<Place>> {
    let pods: Api<Pod> = Api::namespaced(world.client.clone(), space);
    let mut places = Vec::new();
    for pod in pods.list(&ListParams::default()).await? {
        let (pod, spec) = (pod.name_any(), pod.spec.unwrap_or_default());
        for container in spec.containers {
            let name = format!("the log of {space}/{pod}, {}", container.name);
            // One that has never run has none.
            let text = world.kubectl(&["-n", space, "logs", &pod, "-c", &container.name]).await;
            let text = text.unwrap_or_default();
            places.extend(Some(Place { name, text }).filter(|place| !place.text.is_empty()));
        }
    }
    ensure(!places.is_empty(), || format!("nobody in {space} has logged anything"))?;
    Ok(places)
}

/// The operator, agents and fronts: files of a process that can't be dumped belong to root, whoever it runs as (proc(5)).
async fn undumped(world: &World) -> Outcome {
    // One may just have been started, or have ended.
    let looked = until("processes that can't be dumped", WHOLE, || async {
        let mut looked = 0;
        for space in SPACES {
            let pods: Api<Pod> = Api::namespaced(world.client.clone(), space);
            for pod in pods.list(&ListParams::default()).await? {
                let first = part_of(&pod.uid().unwrap_or_default(), Part::First)?;
                for process in first.into_iter().filter(|process| is_ours(*process)) {
                    let owner = fs::metadata(format!("/proc/{process}/environ"))?.uid();
                    let user = user_of(process)?;
                    ensure(user != 0 && owner == 0, || {
                        format!("{}: runs as {user}, and its files belong to {owner}", pod.name_any())
                    })?;
                    looked += 1;
                }
            }
        }
        ensure(looked > NODES.len() + 1, || format!("only {looked} processes are ours"))?;
        Ok(looked)
    })
    .await?;
    println!("    {looked} processes that can't be dumped");
    Ok(())
}
