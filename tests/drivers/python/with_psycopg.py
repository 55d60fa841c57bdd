"""psycopg 3, on the libpq that it brings."""

import concurrent.futures

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from cases import ASLEEP, LOOKS, NOTICES, TOLD, WRONG, address, digest

# Results of a pipeline, at most.
MOST = 50
# What a login that fails says, in part: the rest names hosts.
REFUSALS = ("certificate verify failed", "does not match host name", "password authentication failed")


def connect(**settings):
    return psycopg.connect("", **settings)


def one(connection, query, parameters=None):
    return connection.execute(query, parameters).fetchone()[0]


def came_of(**settings):
    try:
        with connect(connect_timeout=10, **settings) as connection:
            return f"in, TLS: {connection.pgconn.ssl_in_use}"
    except psycopg.OperationalError as error:
        words = str(error)
        told = [refusal for refusal in REFUSALS if refusal in words]
        return told[0] if told else "refused by the server" if "FATAL:" in words else words


def logins():
    full, elsewhere = {"sslmode": "verify-full"}, {"host": "elsewhere.example", "hostaddr": address()}
    return {
        "no TLS": came_of(sslmode="disable"),
        "whatever": came_of(sslmode="prefer"),
        "TLS": came_of(sslmode="require"),
        "by the authority": came_of(sslmode="verify-ca", **elsewhere),
        "another name": came_of(**full, **elsewhere),
        "another authority": came_of(**full, sslrootcert="system"),
        "TLS at once": came_of(**full, sslnegotiation="direct"),
        "TLS 1.2": came_of(**full, ssl_max_protocol_version="TLSv1.2"),
        "bound to the channel": came_of(**full, channel_binding="require"),
        "not bound to it": came_of(**full, channel_binding="disable"),
        "latest protocol": came_of(**full, max_protocol_version="latest"),
        "wrong password": came_of(**full, password="wrong"),
    }


def session():
    with connect(application_name="drivers", options="-c TimeZone=Asia/Tokyo") as connection:
        return {name: connection.info.parameter_status(name) for name in TOLD}


def prepared():
    with connect(autocommit=True, prepare_threshold=2) as connection:
        for n in range(20):
            assert one(connection, "SELECT %s::int + 1", (n,)) == n + 1
        return one(connection, "SELECT count(*) FROM pg_prepared_statements")


def transactions():
    with connect() as connection:
        connection.execute("DROP TABLE IF EXISTS drv_python")
        connection.execute("CREATE TABLE drv_python (n int PRIMARY KEY, t text)")
        connection.commit()
        connection.execute("INSERT INTO drv_python VALUES (7)")
        connection.rollback()
        with connection.transaction():
            connection.execute("INSERT INTO drv_python VALUES (1)")
            try:
                with connection.transaction():
                    connection.execute("INSERT INTO drv_python VALUES (3)")
                    raise ValueError
            except ValueError:
                pass
        connection.commit()
        return [row[0] for row in connection.execute("SELECT n FROM drv_python")]


FIELDS = (
    "severity_nonlocalized sqlstate message_primary message_detail message_hint statement_position context "
    "schema_name table_name column_name datatype_name constraint_name source_function"
).split()


def fields(diag):
    return {name: value for name in FIELDS if (value := getattr(diag, name)) is not None}


def errors():
    said = []
    with connect(autocommit=True) as connection:
        for query in WRONG:
            try:
                connection.execute(query)
            except psycopg.Error as error:
                said.append(fields(error.diag))
        said.append(one(connection, "SELECT 1"))
    return said


def notices():
    said = []
    with connect(autocommit=True) as connection:
        connection.add_notice_handler(lambda diag: said.append(fields(diag)))
        connection.execute(NOTICES)
    return [said[:3], len(said)]


def copied(connection, query):
    with connection.cursor().copy(query) as copy:
        return digest(b"".join(copy))


def copying():
    said = []
    with connect() as connection:
        connection.execute("TRUNCATE drv_python")
        with connection.cursor().copy("COPY drv_python FROM STDIN") as copy:
            for n in range(50_000):
                copy.write_row((n, "naïve\t猫\n" if n % 3 else None))
        said.append(one(connection, "SELECT count(*) FROM drv_python"))
        for form in ("text", "binary", "csv"):
            said.append(copied(connection, f"COPY drv_python TO STDOUT (FORMAT {form})"))
        try:
            with connection.cursor().copy("COPY drv_python FROM STDIN") as copy:
                copy.write("no number\n")
        except psycopg.Error as error:
            said.append(fields(error.diag))
            connection.rollback()
        said.append(one(connection, "SELECT count(*) FROM drv_python"))
    return said


def large():
    with connect() as connection:
        rows = connection.execute("SELECT md5(n::text) FROM generate_series(1, 100000) n").fetchall()
        value = one(connection, "SELECT repeat('y', 10000000)")
        parameter = one(connection, "SELECT md5(%s)", ("z" * 5_000_000,))
        with connection.cursor(name="served") as cursor:
            cursor.itersize = 1000
            cursor.execute("SELECT generate_series(1, 5000)")
            served = sum(row[0] for row in cursor)
        return [digest("".join(row[0] for row in rows)), digest(value), parameter, served]


def pipeline():
    with connect(autocommit=True) as connection:
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(500)]
        said = [sum(cursor.fetchone()[0] for cursor in cursors)]
        said += of_libpq(connection.pgconn)
        said.append(one(connection, "SELECT 'goes on'"))
    return said


def of_libpq(pq):
    """The same by libpq's own functions, and with a failure: what follows it is skipped up to the next mark."""
    said, marks = [], 0
    pq.enter_pipeline_mode()
    for divisor in (b"1", b"0", b"7"):
        pq.send_query_params(b"SELECT 7 / $1::int", [divisor])
        pq.send_query_params(b"SELECT 'next'", None)
        pq.pipeline_sync()
    for _ in range(MOST):
        result = pq.get_result()
        if result is None:
            said.append(None)
            continue
        state = error_field(result)
        value = result.get_value(0, 0) if result.ntuples else b""
        said.append([ExecStatus(result.status).name, state, value.decode()])
        marks += result.status == ExecStatus.PIPELINE_SYNC
        if marks == 3:
            break
    pq.exit_pipeline_mode()
    return said


def error_field(result):
    code = result.error_field(DiagnosticField.SQLSTATE)
    return code.decode() if code else None


def cancelling():
    said = []
    with connect(autocommit=True) as connection, connect(autocommit=True) as looking:
        asleep = ASLEEP.format(connection.info.backend_pid)
        for cancel in (connection.cancel_safe, connection.cancel):

            def once_asleep():
                if any(one(looking, asleep) for _ in range(LOOKS)):
                    cancel()

            canceller = concurrent.futures.ThreadPoolExecutor(1)
            asked = canceller.submit(once_asleep)
            try:
                said.append(one(connection, "SELECT pg_sleep(60)"))
            except psycopg.Error as error:
                said.append(fields(error.diag))
            asked.result()
            said.append(one(connection, "SELECT 1"))
    return said


def notifications():
    with connect(autocommit=True) as listener, connect(autocommit=True) as speaker:
        listener.execute("LISTEN drv_python")
        speaker.execute("NOTIFY drv_python, 'hello: naïve 猫'")
        speaker.execute("SELECT pg_notify('drv_python', repeat('x', 7999))")
        speaker.execute("NOTIFY drv_other, 'unheard'")
        heard = list(listener.notifies(timeout=30, stop_after=2))
        assert {note.pid for note in heard} == {one(speaker, "SELECT pg_backend_pid()")}
        return [(note.channel, len(note.payload), note.payload[:20]) for note in heard]


def promise():
    """What the front refuses, and PostgreSQL itself doesn't."""
    said = []
    with connect(autocommit=True) as connection:
        for query, parameters in (
            ("SET synchronous_commit = off", None),
            ("SELECT set_config('synchronous_commit', 'local', %s)", (False,)),
        ):
            try:
                said.append(connection.execute(query, parameters).statusmessage)
            except psycopg.Error as error:
                said += [error.sqlstate, error.diag.message_primary]
        said.append(one(connection, "SHOW synchronous_commit"))
    return said


CASES = (
    logins, session, prepared, transactions, errors, notices, copying, large, pipeline, cancelling, notifications,
    promise,
)  # fmt: skip
