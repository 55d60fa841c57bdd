//! What people ask for by `kubectl annotate pgpool/NAME`.

/// `recover=N`: take node N back by online recovery.
pub const RECOVER: &str = "pgpool-operator.dev/recover";
/// `detach=N`: take node N out; it stays out until asked back.
pub const DETACH: &str = "pgpool-operator.dev/detach";
/// `attach=N`: take node N back in without a copy, where nothing was missed.
pub const ATTACH: &str = "pgpool-operator.dev/attach";
/// `replace-volume=N`: give up the claim of node N, whose volume is lost, and recover it on a new one.
pub const REPLACE_VOLUME: &str = "pgpool-operator.dev/replace-volume";
/// `switchover=N`: node N shall be the primary.
pub const SWITCHOVER: &str = "pgpool-operator.dev/switchover";
/// `restart=now`: restart every node, one at a time.
pub const RESTART: &str = "pgpool-operator.dev/restart";
/// `fence=N`: take node N out and keep its PostgreSQL stopped; `fence=off` lifts all fences.
pub const FENCE: &str = "pgpool-operator.dev/fence";

/// `release=N`: on a new pool over the volumes of an earlier one: go on with the data of node N.
pub const RELEASE: &str = "pgpool-operator.dev/release";

/// Every request annotation, in the order in which they are looked at.
pub const REQUESTS: [&str; 8] =
    [RECOVER, DETACH, ATTACH, REPLACE_VOLUME, SWITCHOVER, RESTART, FENCE, RELEASE];
