//! The first copy of the data.
use thiserror::Error;

use super::env::InitDb;
use super::volume::{Volume, VolumeError};
use crate::api::v1alpha1::LocaleProvider;
use crate::membership::starting::NodeFile;
use crate::postgres::programs::{ProgramError, Programs};

/// Why the first copy could not be made.
#[derive(Debug, Error)]
pub enum InitError {
    /// initdb failed; its own words.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

/// Arguments of initdb (PostgreSQL docs, "initdb").
fn arguments(options: &InitDb, data: &str) -> Vec<String> {
    let mut args: Vec<String> = vec![
        format!("--pgdata={data}"),
        "--username=postgres".into(),
        "--auth-local=peer".into(),
        "--auth-host=reject".into(),
        "--data-checksums".into(),
        format!("--encoding={}", options.encoding),
        format!("--locale={}", options.locale),
        format!("--wal-segsize={}", options.wal_segment_size),
        "--no-instructions".into(),
    ];
    match (options.provider, &options.icu_locale) {
        (LocaleProvider::Icu, Some(locale)) => {
            args.extend(["--locale-provider=icu".into(), format!("--icu-locale={locale}")]);
        }
        (LocaleProvider::Builtin, _) => {
            args.extend(["--locale-provider=builtin".into(), format!("--builtin-locale={}", options.locale)]);
        }
        _ => args.push("--locale-provider=libc".into()),
    }
    args
}

/// Oldest major version with collations of its own (PostgreSQL docs, release notes of 17).
const BUILTIN: u32 = 17;

/// Why the image can't make what the spec asks for: what a person has to change.
pub fn obstacle(options: &InitDb, major: u32) -> Option<String> {
    let lacking = options.provider == LocaleProvider::Builtin && major < BUILTIN;
    lacking.then(|| {
        format!(
            "spec.bootstrap.provider: builtin needs PostgreSQL {BUILTIN} or newer, and the image has {major}: delete \
             the pool and make it with provider libc or icu, or with a newer image"
        )
    })
}

/// A new random id of a copy of the data.
pub fn new_incarnation() -> String {
    format!("{:012x}", rand::random::<u64>() & 0xFFFF_FFFF_FFFF)
}

/// Makes the first copy beside the place where it belongs, and puts it there in one step: a run that is
/// killed leaves nothing that looks like data.
pub async fn run(
    programs: &Programs,
    volume: &Volume,
    options: &InitDb,
    pool_uid: &str,
    index: u8,
) -> Result<NodeFile, InitError> {
    let data = volume.data_new();
    volume.remove(&data)?;
    let args = arguments(options, &data.display().to_string());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    programs.output("initdb", &args).await?;
    let (pool_uid, incarnation) = (pool_uid.to_owned(), new_incarnation());
    let node = NodeFile { pool_uid, index, incarnation, epoch: 0, taken_up: None };
    volume.adopt_new(&node)?;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_on_what_the_spec_says() {
        let mut options = InitDb {
            encoding: "UTF8".into(),
            locale: "C.UTF-8".into(),
            provider: LocaleProvider::Libc,
            icu_locale: None,
            wal_segment_size: 4,
        };
        let args = arguments(&options, "/x");
        assert!(
            args.contains(&"--wal-segsize=4".to_owned()) && args.contains(&"--data-checksums".to_owned())
        );
        options.provider = LocaleProvider::Icu;
        options.icu_locale = Some("de".into());
        assert!(arguments(&options, "/x").contains(&"--icu-locale=de".to_owned()));
    }

    #[test]
    fn an_image_without_collations_of_its_own_is_told_of_instead_of_others_being_taken() {
        let mut options = InitDb {
            encoding: "UTF8".into(),
            locale: "C.UTF-8".into(),
            provider: LocaleProvider::Builtin,
            icu_locale: None,
            wal_segment_size: 16,
        };
        assert!(obstacle(&options, 16).is_some_and(|why| why.contains("the image has 16")));
        assert_eq!(obstacle(&options, 17), None);
        assert!(arguments(&options, "/x").contains(&"--builtin-locale=C.UTF-8".to_owned()));
        options.provider = LocaleProvider::Libc;
        assert_eq!(obstacle(&options, 15), None);
    }

    #[test]
    fn incarnations_are_twelve_hex_digits() {
        let id = new_incarnation();
        assert!(id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
}
