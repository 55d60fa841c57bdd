//! `pgpool-operator bootstrap`: the init container copies the program into the pod, so that any image with
//! PostgreSQL in it will do.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use thiserror::Error;

/// Where to.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder to copy this program into.
    #[arg(long)]
    to: PathBuf,
}

/// Why the program could not be copied.
#[derive(Debug, Error)]
#[error("copying this program to {to}: {source}")]
pub struct InstallError {
    to: PathBuf,
    source: std::io::Error,
}

/// Copies the running program; a copy that a killed run left half written is replaced.
pub fn run(args: &Args) -> Result<(), InstallError> {
    let to = args.to.join("pgpool-operator");
    let temporary = to.with_extension("tmp");
    let copy = || {
        fs::copy(std::env::current_exe()?, &temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
        fs::rename(&temporary, &to)
    };
    copy().map_err(|source| InstallError { to: to.clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_runs() {
        let dir = tempfile::tempdir().unwrap();
        run(&Args { to: dir.path().to_owned() }).unwrap();
        let copy = dir.path().join("pgpool-operator");
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(&copy).unwrap(), fs::read(std::env::current_exe().unwrap()).unwrap());
    }
}
