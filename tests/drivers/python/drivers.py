"""psycopg 3 and asyncpg through a connection that the environment names (PGHOST, PGUSER, PGPASSWORD, ...).

DRIVERS_WAY says where it leads: to the front, or directly to the primary."""

import asyncio
import concurrent.futures
import io
import os
import ssl
import sys
import time
import traceback

import asyncpg
import psycopg

FAILED = []
FRONT = os.environ["DRIVERS_WAY"] == "front"


def check(name, work):
    """Runs a case; a failure is told and counted."""
    try:
        work()
        print(f"ok {name}", flush=True)
    except Exception:
        FAILED.append(name)
        print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)


def connect(**settings):
    return psycopg.connect("", **settings)


def one(connection, query, parameters=None):
    return connection.execute(query, parameters).fetchone()[0]


def prepared():
    with connect(autocommit=True, prepare_threshold=2) as connection:
        for n in range(20):
            assert one(connection, "SELECT %s::int + 1", (n,)) == n + 1


def transactions():
    with connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS drv_python (n int)")
        connection.execute("TRUNCATE drv_python")
        connection.commit()
        connection.execute("INSERT INTO drv_python VALUES (1)")
        connection.rollback()
        with connection.transaction():
            connection.execute("INSERT INTO drv_python VALUES (2)")
            try:
                with connection.transaction():
                    connection.execute("INSERT INTO drv_python VALUES (3)")
                    raise ValueError
            except ValueError:
                pass
        connection.commit()
        assert [row[0] for row in connection.execute("SELECT n FROM drv_python")] == [2]


def errors():
    with connect(autocommit=True) as connection:
        try:
            connection.execute("SELECT * FROM no_such_table")
        except psycopg.errors.UndefinedTable:
            pass
        else:
            raise AssertionError("no error")
        assert one(connection, "SELECT 1") == 1


def copying():
    with connect() as connection:
        connection.execute("TRUNCATE drv_python")
        with connection.cursor().copy("COPY drv_python FROM STDIN") as copy:
            for n in range(200_000):
                copy.write_row((n,))
        assert one(connection, "SELECT count(*) FROM drv_python") == 200_000
        sink = io.BytesIO()
        with connection.cursor().copy("COPY drv_python TO STDOUT") as copy:
            for piece in copy:
                sink.write(piece)
        assert sink.getvalue().count(b"\n") == 200_000
        try:
            with connection.cursor().copy("COPY drv_python FROM STDIN") as copy:
                copy.write("no number\n")
        except psycopg.errors.InvalidTextRepresentation:
            connection.rollback()
        else:
            raise AssertionError("no error")
        assert one(connection, "SELECT 1") == 1


def large():
    with connect() as connection:
        rows = connection.execute("SELECT repeat('x', 100) FROM generate_series(1, 300000)").fetchall()
        assert len(rows) == 300_000 and len(rows[-1][0]) == 100
        assert len(one(connection, "SELECT repeat('y', 50000000)")) == 50_000_000
        with connection.cursor(name="served") as cursor:
            cursor.itersize = 1000
            cursor.execute("SELECT generate_series(1, 5000)")
            assert sum(1 for _ in cursor) == 5000


def pipeline():
    with connect(autocommit=True) as connection:
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(500)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(500))
        with connection.pipeline() as pipe:
            bad = connection.execute("SELECT 1/0")
            try:
                pipe.sync()
            except psycopg.errors.DivisionByZero:
                pass
            del bad
        assert one(connection, "SELECT 1") == 1


def cancelling():
    with connect(autocommit=True) as connection:
        def cancel():
            time.sleep(0.5)
            connection.cancel_safe()

        canceller = concurrent.futures.ThreadPoolExecutor(1)
        asked = canceller.submit(cancel)
        try:
            connection.execute("SELECT pg_sleep(20)")
        except psycopg.errors.QueryCanceled:
            pass
        else:
            raise AssertionError("not cancelled")
        asked.result()
        assert one(connection, "SELECT 1") == 1


def notifications():
    with connect(autocommit=True) as listener, connect(autocommit=True) as speaker:
        told = []
        listener.add_notice_handler(lambda notice: told.append(notice.message_primary))
        listener.execute("DO $$BEGIN RAISE NOTICE 'hear, hear'; END$$")
        assert told == ["hear, hear"]
        listener.execute("LISTEN drv_python")
        speaker.execute("NOTIFY drv_python, 'hello'")
        heard = next(iter(listener.notifies(timeout=10, stop_after=1)))
        assert (heard.channel, heard.payload) == ("drv_python", "hello")
        assert heard.pid == speaker.info.backend_pid == one(speaker, "SELECT pg_backend_pid()")


def promise():
    """What the front refuses, and PostgreSQL itself doesn't."""
    with connect(autocommit=True) as connection:
        for query in ("SET synchronous_commit = off", "SET LOCAL synchronous_commit TO 'local'"):
            try:
                connection.execute(query)
            except psycopg.errors.FeatureNotSupported:
                assert FRONT, query
            else:
                assert not FRONT, query
        assert one(connection, "SHOW synchronous_commit") == ("remote_apply" if FRONT else "off")


async def with_asyncpg():
    context = ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])
    if "PGSSLCERT" in os.environ:
        context.load_cert_chain(os.environ["PGSSLCERT"], os.environ["PGSSLKEY"])
    connection = await asyncpg.connect(ssl=context)
    assert await connection.fetchval("SELECT $1::int + 1", 1) == 2
    for n in range(20):
        assert await connection.fetchval("SELECT $1::text", str(n)) == str(n)
    async with connection.transaction():
        await connection.execute("TRUNCATE drv_python")
        await connection.executemany("INSERT INTO drv_python VALUES ($1)", [(n,) for n in range(1000)])
    assert await connection.fetchval("SELECT count(*) FROM drv_python") == 1000
    await connection.copy_records_to_table("drv_python", records=[(n,) for n in range(50_000)])
    sink = io.BytesIO()
    await connection.copy_from_table("drv_python", output=sink)
    assert sink.getvalue().count(b"\n") == 51_000
    async with connection.transaction():
        rows = 0
        async for _ in connection.cursor("SELECT * FROM drv_python", prefetch=500):
            rows += 1
        assert rows == 51_000
    try:
        await connection.fetch("SELECT pg_sleep(20)", timeout=0.5)
    except asyncio.TimeoutError:
        pass
    else:
        raise AssertionError("no timeout")
    assert await connection.fetchval("SELECT 1") == 1
    heard = asyncio.get_running_loop().create_future()
    await connection.add_listener("drv_python", lambda *what: heard.done() or heard.set_result(what[3]))
    await connection.execute("NOTIFY drv_python, 'hello'")
    assert await asyncio.wait_for(heard, 10) == "hello"
    await connection.reset()
    await connection.close()
    pool = await asyncpg.create_pool(ssl=context, min_size=5, max_size=10)
    sums = await asyncio.gather(*(pool.fetchval("SELECT $1::int * 2", n) for n in range(200)))
    assert sums == [2 * n for n in range(200)]
    await pool.close()


for case in (prepared, transactions, errors, copying, large, pipeline, cancelling, notifications, promise):
    check(f"psycopg {case.__name__}", case)
check("asyncpg", lambda: asyncio.run(with_asyncpg()))
with connect(autocommit=True) as end:
    end.execute("DROP TABLE IF EXISTS drv_python")
sys.exit(len(FAILED))
