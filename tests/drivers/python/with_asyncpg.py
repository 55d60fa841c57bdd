"""asyncpg, which speaks the protocol itself."""

import asyncio
import io
import os
import ssl

import asyncpg

from cases import ASLEEP, LOOKS, NOTICES, TOLD, WRONG, address, digest

# In an error or notice, whatever isn't a line of PostgreSQL's sources.
SOURCE = ("file", "line", "server_source_filename", "server_source_line", "server_source_function", "query")


def context(cafile=os.environ["PGSSLROOTCERT"]):
    context = ssl.create_default_context(cafile=cafile)
    if "PGSSLCERT" in os.environ:
        context.load_cert_chain(os.environ["PGSSLCERT"], os.environ["PGSSLKEY"])
    # Asked for by PostgreSQL where TLS comes at once.
    context.set_alpn_protocols(["postgresql"])
    return context


async def connect(**settings):
    return await asyncpg.connect(**{"ssl": context()} | settings)


async def came_of(**settings):
    try:
        connection = await connect(**settings)
    except ssl.SSLCertVerificationError as error:
        return error.verify_message.split(",")[0]
    except asyncpg.PostgresError as error:
        return error.sqlstate
    await connection.close()
    return "in"


async def logins():
    unverified, older = context(), context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    another = await came_of(ssl=context(cafile=None))
    return {
        "no TLS": await came_of(ssl=False),
        "TLS": await came_of(ssl=unverified),
        "verified": await came_of(),
        "another name refused": "IP address mismatch" in await came_of(host=address()),
        "another authority refused": "certificate" in another,
        "TLS at once": await came_of(direct_tls=True),
        "TLS 1.2": await came_of(ssl=older),
        "wrong password": await came_of(password="wrong"),
        "no such database": await came_of(database="nowhere"),
    }


async def session():
    connection = await connect(server_settings={"application_name": "drivers", "TimeZone": "Asia/Tokyo"})
    told = connection.get_settings()
    await connection.close()
    return {name: getattr(told, name, None) for name in TOLD}


async def prepared():
    connection = await connect()
    statement = await connection.prepare("SELECT $1::int + 1, $2::text")
    for n in range(20):
        assert tuple(await statement.fetchrow(n, "naïve 猫")) == (n + 1, "naïve 猫")
    said = [await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%$2%'")]
    said.append([(attribute.name, attribute.type.name) for attribute in statement.get_attributes()])
    await connection.close()
    return said


async def transactions():
    connection = await connect()
    await connection.execute("TRUNCATE drv_python")
    await connection.executemany("INSERT INTO drv_python VALUES ($1)", [(n,) for n in range(1000)])
    try:
        async with connection.transaction(isolation="serializable"):
            await connection.execute("INSERT INTO drv_python VALUES (-1)")
            raise ValueError
    except ValueError:
        pass
    said = await connection.fetchval("SELECT count(*) FROM drv_python")
    await connection.close()
    return said


def fields(error):
    return {name: value for name, value in error.as_dict().items() if name not in SOURCE}


async def errors():
    connection, said = await connect(), []
    for query in WRONG:
        try:
            await connection.execute(query)
        except asyncpg.PostgresError as error:
            said.append(fields(error))
        try:
            await connection.fetch(query)
        except asyncpg.PostgresError as error:
            said.append(error.sqlstate)
    said.append(await connection.fetchval("SELECT 1"))
    await connection.close()
    return said


async def notices():
    connection, said, last = await connect(), [], asyncio.get_running_loop().create_future()

    def hear(_, notice):
        said.append(fields(notice))
        if notice.message == "notice 200":
            last.set_result(len(said))

    connection.add_log_listener(hear)
    await connection.execute(NOTICES)
    await asyncio.wait_for(last, 30)
    connection.remove_log_listener(hear)
    await connection.close()
    return [said[:3], len(said)]


async def copying():
    connection, sink = await connect(), io.BytesIO()
    await connection.execute("TRUNCATE drv_python")
    records = [(n, None if n % 3 else "naïve\t猫") for n in range(50_000)]
    said = [await connection.copy_records_to_table("drv_python", records=records)]
    said.append(await connection.copy_from_query("SELECT * FROM drv_python ORDER BY n", output=sink))
    said.append(digest(sink.getvalue()))
    try:
        await connection.copy_to_table("drv_python", source=io.BytesIO(b"no number\n"))
    except asyncpg.PostgresError as error:
        said.append(fields(error))
    said.append(await connection.fetchval("SELECT count(*) FROM drv_python"))
    await connection.close()
    return said


async def large():
    connection = await connect()
    rows = await connection.fetch("SELECT md5(n::text) FROM generate_series(1, 100000) n")
    value = await connection.fetchval("SELECT repeat('y', 10000000)")
    parameter = await connection.fetchval("SELECT md5($1)", "z" * 5_000_000)
    async with connection.transaction():
        cursor = [row[0] async for row in connection.cursor("SELECT generate_series(1, 20000)", prefetch=500)]
    await connection.close()
    return [digest("".join(row[0] for row in rows)), digest(value), parameter, sum(cursor)]


async def cancelling():
    """A task that is cancelled has the driver cancel the statement."""
    connection, looking = await connect(), await connect()
    asleep = ASLEEP.format(connection.get_server_pid())
    statement = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
    for _ in range(LOOKS):
        if await looking.fetchval(asleep):
            break
    statement.cancel()
    try:
        said = [await statement]
    except asyncio.CancelledError:
        said = ["cancelled"]
    said.append(await connection.fetchval("SELECT 1"))
    said.append(await looking.fetchval(asleep))
    await connection.close()
    await looking.close()
    return said


async def notifications():
    listener, speaker = await connect(), await connect()
    heard = asyncio.get_running_loop().create_future()
    await listener.add_listener("drv_python", lambda _, pid, *what: heard.set_result((pid, what)))
    await speaker.execute("NOTIFY drv_python, 'hello: naïve 猫'")
    pid, said = await asyncio.wait_for(heard, 30)
    assert pid == speaker.get_server_pid()
    await listener.reset()
    await listener.close()
    await speaker.close()
    return said


async def pool():
    async with asyncpg.create_pool(ssl=context(), min_size=5, max_size=10) as pool:
        return sum(await asyncio.gather(*(pool.fetchval("SELECT $1::int * 2", n) for n in range(200))))


async def end():
    connection = await connect()
    said = await connection.execute("DROP TABLE drv_python")
    await connection.close()
    return said


CASES = (
    logins, session, prepared, transactions, errors, notices, copying, large, cancelling, notifications, pool, end,
)  # fmt: skip
