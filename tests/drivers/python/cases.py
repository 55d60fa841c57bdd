"""Runs cases, and tells what each of them saw in a line: by the front it has to be the same as at the primary itself."""

import asyncio
import hashlib
import json
import os
import socket
import traceback

FAILED = []
# What a server tells of itself at login.
TOLD = (
    "server_version server_encoding client_encoding application_name is_superuser session_authorization DateStyle "
    "IntervalStyle TimeZone integer_datetimes standard_conforming_strings in_hot_standby "
    "default_transaction_read_only scram_iterations"
).split()
# Statements that fail, each in another way; the table is there, and has a row.
WRONG = [
    "SELECT * FROM no_such_table",
    "INSERT INTO drv_python VALUES (1)",
    "SELECT 1 / 0",
    "DO $$BEGIN RAISE 'own: naïve 猫' USING ERRCODE = 'MY001', DETAIL = 'd', HINT = 'h', COLUMN = 'c'; END$$",
]
NOTICES = """DO $$BEGIN
    RAISE NOTICE 'a notice' USING DETAIL = 'its detail', HINT = 'its hint';
    RAISE WARNING 'naïve 猫';
    FOR i IN 1..200 LOOP RAISE NOTICE 'notice %', i; END LOOP;
END$$"""
ASLEEP = "SELECT count(*) FROM pg_stat_activity WHERE pid = {} AND wait_event = 'PgSleep'"
# Looks at a statement that is to sleep before it is cancelled.
LOOKS = 5000


def check(name, work):
    """Runs a case; a failure is told and counted."""
    try:
        saw = work()
        if asyncio.iscoroutine(saw):
            saw = asyncio.run(saw)
        print(f"ok {name}: {json.dumps(saw, ensure_ascii=False, sort_keys=True)}", flush=True)
    except Exception:
        FAILED.append(name)
        print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)


def digest(data):
    return hashlib.md5(data.encode() if isinstance(data, str) else data).hexdigest()


def address():
    """Of the host, since no certificate names it."""
    return socket.gethostbyname(os.environ["PGHOST"])
