//! Settings of libpq, and what comes of them.

/// Settings of a connection, and words of what comes of it by the front and at the primary.
pub struct Login {
    /// As libpq takes them; `@` stands for the host's address.
    pub settings: &'static str,
    /// By the front.
    pub front: &'static str,
    /// At the primary's own port, with a certificate of the pool at hand.
    pub node: &'static str,
}

/// What psql says of a connection with TLS.
const TLS: &str = "SSL connection (protocol: TLSv1.3";
const TLS_1_2: &str = "SSL connection (protocol: TLSv1.2";

const fn same(settings: &'static str, words: &'static str) -> Login {
    Login { settings, front: words, node: words }
}

const fn other(settings: &'static str, front: &'static str, node: &'static str) -> Login {
    Login { settings, front, node }
}

/// Each is tried on both ways.
pub const LOGINS: [Login; 31] = [
    // Whether TLS is used, and how much of the server's certificate is looked at.
    other(
        "sslmode=disable",
        "the front of this pool takes no connections without TLS",
        "pg_hba.conf rejects connection",
    ),
    same("sslmode=allow", TLS),
    same("sslmode=prefer", TLS),
    same("sslmode=require sslrootcert=/nowhere", TLS),
    same("sslmode=require sslrootcert=/tmp/other.crt", "certificate verify failed"),
    same("sslmode=verify-ca", TLS),
    same("sslmode=verify-ca host=elsewhere.example hostaddr=@", TLS),
    same("sslmode=verify-ca sslrootcert=/tmp/other.crt", "certificate verify failed"),
    same("sslmode=verify-full", TLS),
    same(
        "sslmode=verify-full host=elsewhere.example hostaddr=@",
        "does not match host name \"elsewhere.example\"",
    ),
    same("sslmode=verify-full sslrootcert=system", "certificate verify failed"),
    // How TLS is begun, and which.
    same("sslmode=verify-full sslnegotiation=direct", TLS),
    same("sslmode=verify-full sslsni=0", TLS),
    same("sslmode=verify-full ssl_max_protocol_version=TLSv1.2", TLS_1_2),
    same("sslmode=verify-full sslnegotiation=direct ssl_max_protocol_version=TLSv1.2", TLS_1_2),
    same("sslmode=verify-full gssencmode=disable", TLS),
    // A client's own certificate, which the front doesn't ask for.
    other("sslmode=verify-full sslcertmode=disable", TLS, "connection requires a valid client certificate"),
    other("sslmode=verify-full sslcertmode=require", "server did not request an SSL certificate", TLS),
    // The password's proof.
    same("sslmode=verify-full channel_binding=require", TLS),
    same("sslmode=verify-full channel_binding=disable", TLS),
    same("sslmode=verify-full sslnegotiation=direct channel_binding=require", TLS),
    same("sslmode=verify-full require_auth=scram-sha-256", TLS),
    same("sslmode=verify-full require_auth=password,md5", "server requested SASL authentication"),
    same("sslmode=verify-full password=wrong", "password authentication failed for user \"app\""),
    same("sslmode=verify-full user=nobody", "password authentication failed for user \"nobody\""),
    // What a session begins with.
    same("sslmode=verify-full dbname=nowhere", "database \"nowhere\" does not exist"),
    same("sslmode=verify-full options='-c no_such=1'", "unrecognized configuration parameter \"no_such\""),
    same("sslmode=verify-full client_encoding=SJIS options='-c geqo=off -c work_mem=7MB'", TLS),
    other(
        "sslmode=verify-full options='-c synchronous_commit=off'",
        "the setting synchronous_commit belongs to the pool",
        TLS,
    ),
    other(
        "sslmode=verify-full replication=database",
        "takes no replication connections",
        "permission denied to start WAL sender",
    ),
    other(
        "sslmode=verify-full replication=true",
        "takes no replication connections",
        "pg_hba.conf rejects replication connection",
    ),
];
