-- Whatever psql can be told by a server: rows of all forms, notices, errors with all their fields, COPY both ways,
-- notifications. Nothing in it may depend on the time, the process, or earlier runs.
\set VERBOSITY verbose
\pset null '(null)'
SELECT current_user, current_database(), current_setting('is_superuser');

-- Rows
SELECT;
SELECT 1 AS a, NULL AS b, '' AS c, E'two\nlines' AS d, 'naïve 猫 🐈' AS e;
SELECT 1 WHERE false;
SELECT 1\; SELECT 2\; SELECT 3;
;
SELECT i, repeat('x', i) FROM generate_series(0, 40, 4) i;
SELECT ARRAY[[1, NULL], [3, 4]], '{"a": [1, 2]}'::jsonb, '\x00ff'::bytea, int4range(1, 5), 1e300, 'NaN'::float8;
SELECT format('SELECT %s', string_agg(format('%s AS c%s', i, i), ', ')) FROM generate_series(1, 1600) i \gexec
SELECT repeat('wide ', 4000000) \g wide
\set FETCH_COUNT 7
SELECT i, md5(i::text) FROM generate_series(1, 100) i;
\unset FETCH_COUNT
SELECT 1 AS one, 'x' AS x \gdesc
SELECT i % 3 AS r, i % 2 AS c, count(*) FROM generate_series(1, 30) i GROUP BY 1, 2 ORDER BY 1, 2 \crosstabview
\x
SELECT 1 AS expanded, NULL AS nothing;
\x
SET client_encoding = 'LATIN1';
SELECT 'na' || U&'\00ef' || 've' AS latin;
SELECT U&'\732B' AS "no latin";
RESET client_encoding;
SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET bytea_output = 'escape';
SELECT timestamptz '2001-02-03 04:05:06Z', interval '1 day 2 hours', '\x00ff'::bytea;
RESET ALL;

-- Notices
DO $$
BEGIN
    RAISE DEBUG 'not to be seen';
    RAISE INFO 'an info';
    RAISE NOTICE 'a notice' USING DETAIL = 'its detail', HINT = 'its hint', ERRCODE = '01P01';
    RAISE WARNING 'a warning: naïve 猫';
    FOR i IN 1..300 LOOP RAISE NOTICE 'notice %', i; END LOOP;
END $$;
DROP TABLE IF EXISTS nowhere;
CREATE TABLE said (n int PRIMARY KEY, t text NOT NULL, CONSTRAINT short CHECK (length(t) < 10));

-- Errors
SELECT * FROM nowhere;
SELEC 1;
SELECT 1 +;
SELECT 1 / 0;
SELECT 'x'::int;
INSERT INTO said VALUES (1, 'one');
INSERT INTO said VALUES (1, 'again');
INSERT INTO said VALUES (2, 'far too long');
INSERT INTO said VALUES (3, NULL);
\errverbose
SELECT 1\; SELECT 1 / 0\; SELECT 3;
DO $$ BEGIN RAISE 'own' USING ERRCODE = 'MY001', DETAIL = 'd', HINT = 'h', COLUMN = 'c', TABLE = 't', SCHEMA = 's', CONSTRAINT = 'k', DATATYPE = 'y'; END $$;
SELECT pg_read_file('/etc/passwd');
SET statement_timeout = '50ms';
SELECT pg_sleep(20);
RESET statement_timeout;
SET no_such_setting = 1;
CREATE DATABASE within_no_right;
COPY said TO '/tmp/x';
PREPARE TRANSACTION 'x';
SELECT repeat('x', 2000000000);

-- Transactions
BEGIN;
SELECT 1 / 0;
SELECT 1;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
INSERT INTO said VALUES (9, 'no');
ROLLBACK;
BEGIN;
SAVEPOINT one;
INSERT INTO said VALUES (4, 'four');
ROLLBACK TO one;
INSERT INTO said VALUES (5, 'five');
COMMIT AND CHAIN;
INSERT INTO said VALUES (6, 'six');
ROLLBACK;
COMMIT;
CREATE TABLE later (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO later VALUES (1), (1);
COMMIT;
TABLE said ORDER BY n;

-- Prepared statements and cursors
PREPARE plus (int) AS SELECT $1 + 1 AS plus;
EXECUTE plus(41);
EXECUTE plus('x');
DEALLOCATE plus;
EXECUTE plus(1);
SELECT $1::int + $2::int AS bound \bind 1 2 \g
SELECT $1::text AS bound, $2 AS "unknown" \bind 'it''s' '' \g
SELECT 1 / $1::int \bind 0 \g
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT i FROM generate_series(1, 1000) i;
FETCH 3 FROM c;
MOVE 500 IN c;
FETCH BACKWARD 2 FROM c;
FETCH LAST FROM c;
CLOSE c;
FETCH c;
ROLLBACK;
DECLARE h CURSOR WITH HOLD FOR SELECT n FROM said ORDER BY n;
FETCH ALL FROM h;
CLOSE ALL;

-- COPY
CREATE TABLE copied (n int, t text);
COPY copied FROM STDIN;
1	tab\tnew\nline
2	\N
3	\\.
4	naïve 猫
\.
COPY copied FROM STDIN (FORMAT csv, NULL 'nil');
5,"quoted ""word"", and
a line"
6,nil
\.
COPY copied FROM STDIN;
7	seven
eight	8
\.
COPY copied FROM STDIN;
9
\.
TABLE copied ORDER BY n;
COPY copied TO STDOUT;
COPY copied TO STDOUT (FORMAT csv, HEADER, FORCE_QUOTE *);
COPY (TABLE copied ORDER BY n) TO STDOUT (FORMAT binary) \g binary
\copy copied from binary (format binary)
\copy copied from program 'seq -f "%g,n" 1 200000' (format csv)
SELECT count(*), sum(n), md5(string_agg(t, '' ORDER BY n, t)) FROM copied;
\copy (SELECT * FROM copied ORDER BY n, t) to sorted
COPY (SELECT 1 / (3 - i) FROM generate_series(1, 5) i) TO STDOUT;

-- Notifications, of this session and of another
LISTEN heard;
NOTIFY heard, 'by myself';
NOTIFY unheard, 'by myself';
\! psql -Xqc "NOTIFY heard, 'by another: naïve 猫'" -c "SELECT pg_notify('heard', repeat('x', 7999))"
SELECT 'it comes with an answer';
BEGIN;
NOTIFY heard, 'at the end';
SELECT 'not yet';
COMMIT;
UNLISTEN *;
NOTIFY heard, 'no more';

-- Large objects, whose numbers are others each time
\set QUIET on
\lo_import binary
\lo_export :LASTOID exported
\lo_unlink :LASTOID
\set QUIET off
SELECT count(*) FROM pg_largeobject_metadata;

-- What psql asks the catalogs
\d said
\d+ copied
\dt
\df int4pl
\dconfig work_mem
\sf pg_catalog.obj_description(oid)
\d nowhere
DISCARD ALL;
DROP TABLE said, copied, later;
