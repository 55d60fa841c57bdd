"""psycopg 3 and asyncpg through a connection that the environment names (PGHOST, PGUSER, PGPASSWORD, ...)."""

import sys

import with_asyncpg
import with_psycopg
from cases import FAILED, check

for case in with_psycopg.CASES:
    check(f"psycopg {case.__name__}", case)
for case in with_asyncpg.CASES:
    check(f"asyncpg {case.__name__}", case)
sys.exit(len(FAILED))
