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

/// Which field of the spec initdb's words are about, and what a person can do (PostgreSQL source, `initdb.c`).
pub fn complaint(options: &InitDb, said: &str) -> String {
    let InitDb { encoding, locale, .. } = options;
    let icu = options.icu_locale.as_deref().unwrap_or_default();
    let about = if said.contains("invalid locale name") {
        format!(
            "spec.bootstrap.locale: the image has no locale {locale}: delete the pool and make it with one that it has \
             (C.UTF-8, or what locale -a says), or with an image that has it"
        )
    } else if said.contains("not a valid server encoding name") {
        format!(
            "spec.bootstrap.encoding: a PostgreSQL server has no encoding {encoding}: delete the pool and make it with \
             another, as UTF8"
        )
    } else if said.contains("encoding mismatch") {
        format!(
            "spec.bootstrap.encoding: {encoding} isn't the encoding of spec.bootstrap.locale, {locale}: delete the pool \
             and make it with two that match"
        )
    } else if options.provider == LocaleProvider::Icu && (said.contains("ICU") || said.contains("collator")) {
        format!(
            "spec.bootstrap.icuLocale: the image can't do with {icu}: delete the pool and make it with another, or with \
             provider libc"
        )
    } else {
        "the first copy of the data can't be made".to_owned()
    };
    format!("{about} ({said})")
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
        let has = |options: &InitDb, wanted: &[&str]| {
            let args = arguments(options, "/x");
            for arg in wanted {
                assert_eq!(args.iter().filter(|given| given == arg).count(), 1, "{arg}: {args:?}");
            }
            args
        };
        let args = has(
            &options,
            &[
                "--pgdata=/x",
                "--data-checksums",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--locale-provider=libc",
                "--wal-segsize=4",
            ],
        );
        assert!(!args.iter().any(|arg| arg.contains("icu") || arg.contains("builtin")), "{args:?}");
        options.encoding = "LATIN1".into();
        options.locale = "de_DE".into();
        has(&options, &["--encoding=LATIN1", "--locale=de_DE", "--locale-provider=libc"]);
        options.provider = LocaleProvider::Icu;
        options.icu_locale = Some("de".into());
        has(&options, &["--locale=de_DE", "--locale-provider=icu", "--icu-locale=de"]);
        options.provider = LocaleProvider::Builtin;
        has(&options, &["--locale=de_DE", "--locale-provider=builtin", "--builtin-locale=de_DE"]);
    }

    #[test]
    fn what_initdb_complains_of_is_told_by_the_field_of_the_spec() {
        let mut options = InitDb {
            encoding: "LATIN1".into(),
            locale: "de_DE.UTF-8".into(),
            provider: LocaleProvider::Libc,
            icu_locale: Some("xx".into()),
            wal_segment_size: 16,
        };
        let said = "exit status: 1: initdb: error: invalid locale name \"de_DE.UTF-8\"";
        let told = complaint(&options, said);
        assert!(told.starts_with("spec.bootstrap.locale: the image has no locale de_DE.UTF-8"), "{told}");
        assert!(told.contains("delete the pool") && told.ends_with(&format!("({said})")), "{told}");
        for (said, field) in [
            ("initdb: error: \"LATIN1\" is not a valid server encoding name", "spec.bootstrap.encoding: "),
            ("initdb: error: encoding mismatch", "spec.bootstrap.encoding: "),
            ("initdb: error: could not open collator for locale \"xx\"", "the first copy "),
            ("initdb: error: could not create directory: No space left on device", "the first copy "),
        ] {
            let told = complaint(&options, said);
            assert!(told.starts_with(field) && told.contains(said), "{told}");
        }
        options.provider = LocaleProvider::Icu;
        let told = complaint(&options, "initdb: error: could not open collator for locale \"xx\"");
        assert!(told.starts_with("spec.bootstrap.icuLocale: "), "{told}");
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
