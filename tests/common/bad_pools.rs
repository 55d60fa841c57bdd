//! What is wrong in a PgPool, and what the API server says of it: tried on a real one (tests/api), and told in
//! docs/reference/bad-manifests.md.

/// Specs that are refused, and words of the message.
pub const BAD: &[(&str, &str, &str)] = &[
    ("no-nodes", "{storage: {size: 1Gi}}", "spec.nodes: Required value"),
    ("no-storage", "{nodes: 3}", "spec.storage: Required value"),
    (
        "no-connections",
        "{nodes: 3, storage: {size: 1Gi}, proxy: {maxConnectionsPerUser: 0}}",
        "spec.proxy.maxConnectionsPerUser in body should be greater than or equal to 1",
    ),
    (
        "zero-nodes",
        "{nodes: 0, storage: {size: 1Gi}}",
        "spec.nodes in body should be greater than or equal to 1",
    ),
    (
        "sixteen-nodes",
        "{nodes: 16, storage: {size: 1Gi}}",
        "spec.nodes in body should be less than or equal to 15",
    ),
    ("nodes-as-text", "{nodes: three, storage: {size: 1Gi}}", "must be of type integer"),
    ("unknown-field", "{nodes: 3, storage: {size: 1Gi}, replicas: 3}", "unknown field \"spec.replicas\""),
    (
        "unknown-inner-field",
        "{nodes: 3, storage: {size: 1Gi, shrink: true}}",
        "unknown field \"spec.storage.shrink\"",
    ),
    ("unknown-mode", "{nodes: 3, clusteringMode: Raw, storage: {size: 1Gi}}", "Unsupported value: \"Raw\""),
    (
        "later-mode",
        "{nodes: 3, clusteringMode: SnapshotIsolation, storage: {size: 1Gi}}",
        "only StreamingReplication is supported for now",
    ),
    (
        "other-later-mode",
        "{nodes: 3, clusteringMode: NativeReplication, storage: {size: 1Gi}}",
        "only StreamingReplication is supported for now",
    ),
    (
        "empty-image",
        "{nodes: 3, image: '', storage: {size: 1Gi}}",
        "spec.image in body should be at least 1 chars long",
    ),
    ("size-of-words", "{nodes: 3, storage: {size: large}}", "spec.storage.size"),
    ("size-too-small", "{nodes: 3, storage: {size: 100Mi}}", "spec.storage.size: at least 256Mi"),
    ("size-as-number", "{nodes: 3, storage: {size: 1073741824}}", "must be of type string"),
    (
        "fsync-off",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {fsync: 'off'}}}",
        "an acknowledged commit could be lost",
    ),
    (
        "synchronous-commit",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {synchronous_commit: local}}}",
        "an acknowledged commit could be lost",
    ),
    (
        "hot-standby",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {hot_standby: 'off'}}}",
        "the membership of the nodes rests on them",
    ),
    (
        "conninfo",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {primary_conninfo: x}}}",
        "the membership of the nodes rests on them",
    ),
    (
        "isolation",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {default_transaction_isolation: serializable}}}",
        "set the isolation by ALTER ROLE",
    ),
    (
        "archive-command",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {archive_command: cp}}}",
        "see spec.walArchive",
    ),
    (
        "port",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {port: '5433'}}}",
        "the front and the other nodes find the node by them",
    ),
    (
        "ssl",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {ssl: 'off'}}}",
        "the front and the other nodes find the node by them",
    ),
    (
        "language",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {lc_messages: de_DE}}}",
        "recognised by their English text",
    ),
    (
        "preload-as-parameter",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {shared_preload_libraries: x}}}",
        "write spec.postgres.sharedPreloadLibraries instead",
    ),
    (
        "capital-parameter",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {Work_Mem: 1MB}}}",
        "names are written in small letters",
    ),
    (
        "library-list",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {sharedPreloadLibraries: ['a, b']}}",
        "without quotes, spaces or commas",
    ),
    (
        "archive-too-fast",
        "{nodes: 3, storage: {size: 1Gi}, walArchive: {timeout: 100ms}}",
        "spec.walArchive.timeout: between 1s and 1h",
    ),
    (
        "archive-kept-too-short",
        "{nodes: 3, storage: {size: 1Gi}, walArchive: {retention: 10s}}",
        "spec.walArchive.retention: between 10m and 8760h",
    ),
    (
        "archive-too-small",
        "{nodes: 3, storage: {size: 1Gi}, walArchive: {maxSize: 1Mi}}",
        "spec.walArchive.maxSize: at least 32Mi",
    ),
    (
        "archive-larger-than-volume",
        "{nodes: 3, storage: {size: 1Gi}, walArchive: {maxSize: 600Mi}}",
        "spec.walArchive.maxSize: at most half of spec.storage.size",
    ),
    ("days", "{nodes: 3, storage: {size: 1Gi}, walArchive: {retention: 7d}}", "spec.walArchive.retention"),
    (
        "weights",
        "{nodes: 3, storage: {size: 1Gi}, loadBalancing: {weights: {'1': 1001}}}",
        "spec.loadBalancing.weights: at most 1000 each",
    ),
    (
        "negative-weight",
        "{nodes: 3, storage: {size: 1Gi}, loadBalancing: {weights: {'1': -1}}}",
        "spec.loadBalancing.weights",
    ),
    (
        "weight-of-nobody",
        "{nodes: 3, storage: {size: 1Gi}, loadBalancing: {weights: {'3': 1}}}",
        "the keys are indices of nodes",
    ),
    (
        "no-front",
        "{nodes: 3, storage: {size: 1Gi}, proxy: {replicas: 0}}",
        "spec.proxy.replicas in body should be greater than or equal to 1",
    ),
    (
        "headless-front",
        "{nodes: 3, storage: {size: 1Gi}, proxy: {service: {type: ExternalName}}}",
        "Unsupported value: \"ExternalName\"",
    ),
    (
        "hasty-recovery",
        "{nodes: 3, storage: {size: 1Gi}, recovery: {timeout: 5s}}",
        "spec.recovery.timeout: at least 30s",
    ),
    (
        "bandwidth",
        "{nodes: 3, storage: {size: 1Gi}, recovery: {bandwidth: 2Gi}}",
        "spec.recovery.bandwidth: between 32Ki and 1Gi",
    ),
    (
        "heartbeat",
        "{nodes: 3, storage: {size: 1Gi}, failure: {heartbeat: 1s}}",
        "at most a quarter of detachAfter",
    ),
    (
        "lease-too-short",
        "{nodes: 3, storage: {size: 1Gi}, failure: {lease: 1s}}",
        "detachAfter < lease < grace",
    ),
    (
        "grace-too-short",
        "{nodes: 3, storage: {size: 1Gi}, failure: {grace: 2s}}",
        "detachAfter < lease < grace",
    ),
    (
        "no-lag",
        "{nodes: 3, storage: {size: 1Gi}, failure: {detachLag: 1ms}}",
        "spec.failure.detachLag: between 1s and 1h",
    ),
    (
        "too-many-attached",
        "{nodes: 2, storage: {size: 1Gi}, failure: {minAttached: 3}}",
        "can't be more than spec.nodes",
    ),
    (
        "bootstrap-postgres",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {database: postgres}}",
        "name one of your own",
    ),
    (
        "bootstrap-owner",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {owner: pgpool_replication}}",
        "spec.bootstrap.owner: postgres, public, none, pg_* and pgpool_* are taken",
    ),
    (
        "bootstrap-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {database: 'a\"b'}}",
        "holds only letters, digits, _ and -",
    ),
    (
        "segment-size",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {walSegmentSize: 17}}",
        "a power of two from 1 to 1024",
    ),
    (
        "icu-without-locale",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {provider: icu}}",
        "is needed with provider icu",
    ),
    (
        "sql-from-both",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {sql: {secret: {name: a, key: b}, configMap: {name: a, key: b}}}}",
        "name either a configMap or a secret",
    ),
    (
        "sql-from-nowhere",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {sql: {}}}",
        "name either a configMap or a secret",
    ),
    (
        "user-twice",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: a}, {name: a}]}",
        "spec.users: each name stands once",
    ),
    ("user-is-owner", "{nodes: 3, storage: {size: 1Gi}, users: [{name: app}]}", "is made by the bootstrap"),
    (
        "user-superuser",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: postgres}]}",
        "spec.users.name: postgres, public, none, pg_* and pgpool_* are taken",
    ),
    (
        "user-with-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: Reader}]}",
        "name a Secret for this role",
    ),
    (
        "user-secret-name",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: reader, secret: Not_A_Name}]}",
        "spec.users[0].secret in body should match",
    ),
    (
        "user-reaches-files",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: reader, inRoles: [pg_read_server_files]}]}",
        "can't be given",
    ),
    (
        "database-twice",
        "{nodes: 3, storage: {size: 1Gi}, databases: [{name: a, owner: app}, {name: a, owner: app}]}",
        "spec.databases: each name stands once",
    ),
    (
        "database-of-nobody",
        "{nodes: 3, storage: {size: 1Gi}, databases: [{name: a, owner: ghost}]}",
        "name spec.bootstrap.owner or a role of spec.users",
    ),
    (
        "database-template",
        "{nodes: 3, storage: {size: 1Gi}, databases: [{name: template1, owner: app}]}",
        "spec.databases.name: postgres, template0 and template1 are there already",
    ),
    (
        "cpu-of-words",
        "{nodes: 3, storage: {size: 1Gi}, resources: {requests: {cpu: much}}}",
        "spec.resources.requests.cpu in body should match",
    ),
    (
        "label-of-two-words",
        "{nodes: 3, storage: {size: 1Gi}, podMetadata: {labels: {team: two words}}}",
        "spec.podMetadata.labels.team in body should match",
    ),
    (
        "label-with-an-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, podMetadata: {labels: {Example.com/team: db}}}",
        "spec.podMetadata: names of labels and annotations have the form",
    ),
    (
        "annotation-with-an-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, podMetadata: {annotations: {two words: x}}}",
        "spec.podMetadata: names of labels and annotations have the form",
    ),
    (
        "selector-of-two-words",
        "{nodes: 3, storage: {size: 1Gi}, nodeSelector: {disk: two words}}",
        "spec.nodeSelector.disk in body should match",
    ),
    (
        "selector-with-an-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, nodeSelector: {'-disk': ssd}}",
        "spec.nodeSelector: names of labels have the form",
    ),
    (
        "operator-label",
        "{nodes: 3, storage: {size: 1Gi}, podMetadata: {labels: {pgpool-operator.dev/role: primary}}}",
        "belong to the operator",
    ),
    (
        "own-certificate",
        "{nodes: 3, storage: {size: 1Gi}, tls: {serverSecret: My_Certificate}}",
        "spec.tls.serverSecret in body should match",
    ),
    (
        "certificates-of-a-minute",
        "{nodes: 3, storage: {size: 1Gi}, tls: {validity: 1m}}",
        "spec.tls.validity: between 1h and 87600h",
    ),
    (
        "owner-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {owner: 1st}}",
        "spec.bootstrap.owner: begins with a letter or _",
    ),
    (
        "user-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: a b, secret: x}]}",
        "spec.users.name: begins with a letter or _",
    ),
    (
        "database-odd-name",
        "{nodes: 3, storage: {size: 1Gi}, databases: [{name: a b, owner: app}]}",
        "spec.databases.name: begins with a letter or _",
    ),
    ("nodes-of-nothing", "{nodes: null, storage: {size: 1Gi}}", "spec.nodes"),
    ("half-a-node", "{nodes: 2.5, storage: {size: 1Gi}}", "spec.nodes"),
    ("negative-nodes", "{nodes: -3, storage: {size: 1Gi}}", "spec.nodes"),
    ("a-list", "[]", "spec"),
    ("size-negative", "{nodes: 3, storage: {size: -1Gi}}", "spec.storage.size"),
    ("size-with-a-line", "{nodes: 3, storage: {size: \"1Gi\\nnodes: 5\"}}", "spec.storage.size"),
    (
        "class-with-a-path",
        "{nodes: 3, storage: {size: 1Gi, storageClassName: ../../etc}}",
        "spec.storage.storageClassName",
    ),
    (
        "image-with-a-flag",
        "{nodes: 3, image: 'postgres:17 --privileged', storage: {size: 1Gi}}",
        "spec.image",
    ),
    ("image-with-a-line", "{nodes: 3, image: \"postgres:17\\n\", storage: {size: 1Gi}}", "spec.image"),
    ("pull-policy", "{nodes: 3, imagePullPolicy: Sometimes, storage: {size: 1Gi}}", "spec.imagePullPolicy"),
    (
        "parameter-that-includes",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {include: /etc/passwd}}}",
        "spec.postgres.parameters",
    ),
    (
        "parameter-with-a-quote",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {\"work_mem = '1MB' fsync\": x}}}",
        "spec.postgres.parameters",
    ),
    (
        "parameter-of-a-number",
        "{nodes: 3, storage: {size: 1Gi}, postgres: {parameters: {max_connections: 100}}}",
        "spec.postgres.parameters.max_connections",
    ),
    (
        "user-of-another-alphabet",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: \u{43b}\u{435}\u{441}, secret: x}]}",
        "spec.users.name: begins with a letter or _",
    ),
    (
        "user-that-ends-a-statement",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: 'a\"; DROP ROLE app; --', secret: x}]}",
        "spec.users.name: begins with a letter or _",
    ),
    (
        "user-with-a-long-name",
        "{nodes: 3, storage: {size: 1Gi}, users: [{name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}]}",
        "spec.users",
    ),
    (
        "user-without-a-name",
        "{nodes: 3, storage: {size: 1Gi}, users: [{secret: x}]}",
        "spec.users[0].name: Required value",
    ),
    (
        "database-of-another-alphabet",
        "{nodes: 3, storage: {size: 1Gi}, databases: [{name: \u{6570}\u{636e}, owner: app}]}",
        "spec.databases.name: begins with a letter or _",
    ),
    (
        "sql-key-with-a-path",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {sql: {secret: {name: a, key: ../../token}}}}",
        "spec.bootstrap.sql.secret.key",
    ),
    (
        "locale-with-a-line",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {locale: \"C\\n\"}}",
        "spec.bootstrap.locale",
    ),
    (
        "encoding",
        "{nodes: 3, storage: {size: 1Gi}, bootstrap: {encoding: 'UTF8 --auth=trust'}}",
        "spec.bootstrap.encoding",
    ),
    ("time-of-words", "{nodes: 3, storage: {size: 1Gi}, recovery: {timeout: soon}}", "spec.recovery.timeout"),
    ("negative-time", "{nodes: 3, storage: {size: 1Gi}, recovery: {timeout: -30s}}", "spec.recovery.timeout"),
    ("time-as-number", "{nodes: 3, storage: {size: 1Gi}, recovery: {timeout: 60}}", "spec.recovery.timeout"),
    (
        "annotation-of-the-operator",
        "{nodes: 3, storage: {size: 1Gi}, podMetadata: {annotations: {pgpool-operator.dev/template: x}}}",
        "belong to the operator",
    ),
];

/// Names of pools that are refused.
pub const BAD_NAMES: &[&str] = &["9lives", "a-name-of-more-than-forty-characters-in-all", "with.dot"];
