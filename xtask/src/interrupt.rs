//! Ctrl-C is remembered instead of ending the program, so that what a long command made is removed first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::{Error, Result};

static SEEN: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on SIGINT and SIGTERM are remembered; programs that were started get them as before. While one is
/// remembered, the next ends the program at once.
pub fn remember() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        let first = flag::register_conditional_shutdown(signal, 130, Arc::clone(&SEEN));
        first.and_then(|_| flag::register(signal, Arc::clone(&SEEN))).map_err(|source| Error::File {
            action: "handle",
            path: "SIGINT and SIGTERM".into(),
            source,
        })?;
    }
    Ok(())
}

/// Fails once there was one.
pub fn check() -> Result<()> {
    if SEEN.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// Forgets it, for what has to be done all the same.
pub fn forget() {
    SEEN.store(false, Ordering::Relaxed);
}
