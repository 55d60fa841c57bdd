// node-postgres through a connection that the environment names. Each case prints a line of what it saw: by the front it has
// to be the same as at the primary itself.
import crypto from 'node:crypto';
import dns from 'node:dns/promises';
import fs from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { Readable, Writable } from 'node:stream';
import pg from 'pg';
import Cursor from 'pg-cursor';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';

const { PGHOST, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY } = process.env;
const files = { ca: fs.readFileSync(PGSSLROOTCERT, 'utf8') };
if (PGSSLCERT) {
  files.cert = fs.readFileSync(PGSSLCERT, 'utf8');
  files.key = fs.readFileSync(PGSSLKEY, 'utf8');
}
// Anew each time, since the driver hides the key of what it is given.
const tls = (changes = {}) => ({ ...files, servername: PGHOST, ...changes });
// Looks at a statement that is to sleep before it is cancelled.
const LOOKS = 5000;
const FIELDS = ['severity', 'code', 'message', 'detail', 'hint', 'position', 'where', 'schema', 'table', 'column', 'constraint'];
let failed = 0;

const digest = (data) => crypto.createHash('md5').update(data).digest('hex');
const fields = (said) => Object.fromEntries(FIELDS.filter((name) => said[name] != null).map((name) => [name, said[name]]));
const fails = (promise) => promise.then(() => 'no error', fields);
const connected = async (settings = {}) => {
  const client = new pg.Client({ ssl: tls(), enableChannelBinding: true, ...settings });
  client.on('error', () => {});
  await client.connect();
  return client;
};

async function check(name, work) {
  let client;
  try {
    client = await connected();
    console.log(`ok node-postgres ${name}: ${JSON.stringify(await work(client))}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED node-postgres ${name}`, error);
  } finally {
    await client?.end().catch(() => {});
  }
}

async function cameOf(settings) {
  try {
    const client = await connected(settings);
    await client.end();
    return 'in';
  } catch ({ code, message }) {
    return code ?? message;
  }
}

await check('logins', async () => ({
  'no TLS': await cameOf({ ssl: false }),
  TLS: await cameOf({ ssl: tls({ rejectUnauthorized: false }) }),
  verified: await cameOf({}),
  'another name': await cameOf({ ssl: tls({ servername: undefined }), host: (await dns.lookup(PGHOST)).address }),
  'another authority refused': (await cameOf({ ssl: tls({ ca: [] }) })) !== 'in',
  'TLS 1.2': await cameOf({ ssl: tls({ maxVersion: 'TLSv1.2' }) }),
  'not bound to the channel': await cameOf({ enableChannelBinding: false }),
  'wrong password': await cameOf({ password: 'wrong' }),
}));

await check('session', async () => {
  const told = {};
  const client = new pg.Client({ ssl: tls(), application_name: 'drivers', options: '-c TimeZone=Asia/Tokyo' });
  client.connection.on('parameterStatus', ({ parameterName, parameterValue }) => { told[parameterName] = parameterValue; });
  await client.connect();
  await client.end();
  return Object.entries(told).sort();
});

await check('prepared', async (client) => {
  let sum = 0;
  for (let n = 0; n < 20; n += 1) {
    const { rows } = await client.query({ name: 'plus', text: 'SELECT $1::int + 1 AS n', values: [n] });
    sum += rows[0].n;
  }
  return [sum, (await client.query('SELECT name FROM pg_prepared_statements')).rows];
});

await check('transactions', async (client) => {
  await client.query('DROP TABLE IF EXISTS drv_node');
  await client.query('CREATE TABLE drv_node (n int PRIMARY KEY)');
  await client.query('BEGIN');
  await client.query('INSERT INTO drv_node VALUES ($1)', [2]);
  await client.query('ROLLBACK');
  await client.query('INSERT INTO drv_node VALUES ($1)', [1]);
  return (await client.query('SELECT * FROM drv_node')).rows;
});

await check('errors', async (client) => {
  const said = [];
  for (const text of [
    'SELECT * FROM no_such_table', 'INSERT INTO drv_node VALUES (1)', 'SELECT 1 / 0',
    "DO $$BEGIN RAISE 'own: naïve 猫' USING ERRCODE = 'MY001', DETAIL = 'd', HINT = 'h', COLUMN = 'c'; END$$",
  ]) {
    said.push(await fails(client.query(text)));
  }
  said.push(await fails(client.query('SELECT 1 / $1::int', [0])));
  said.push((await client.query('SELECT 1 AS n')).rows);
  return said;
});

await check('notices', async (client) => {
  const said = [];
  client.on('notice', (notice) => said.push(fields(notice)));
  await client.query("DO $$BEGIN RAISE NOTICE 'a notice' USING DETAIL = 'd', HINT = 'h'; RAISE WARNING 'naïve 猫'; END$$");
  return said;
});

await check('copy', async (client) => {
  await client.query('TRUNCATE drv_node');
  const lines = Readable.from((function* numbers() {
    for (let n = 0; n < 100000; n += 1) yield `${n}\n`;
  })());
  await pipeline(lines, client.query(copyFrom('COPY drv_node FROM STDIN')));
  const pieces = [];
  const sink = new Writable({ write(piece, _, done) { pieces.push(piece); done(); } });
  await pipeline(client.query(copyTo('COPY drv_node TO STDOUT')), sink);
  const wrong = await fails(pipeline(Readable.from(['no number\n']), client.query(copyFrom('COPY drv_node FROM STDIN'))));
  return [digest(Buffer.concat(pieces)), wrong, (await client.query('SELECT count(*) FROM drv_node')).rows];
});

await check('cursor', async (client) => {
  const cursor = client.query(new Cursor('SELECT generate_series(1, 10000) AS n'));
  let sum = 0;
  for (;;) {
    const some = await cursor.read(1000);
    if (some.length === 0) break;
    sum += some.reduce((all, { n }) => all + n, 0);
  }
  return sum;
});

await check('large', async (client) => {
  const { rows } = await client.query('SELECT md5(n::text) AS x FROM generate_series(1, 100000) n');
  const value = (await client.query("SELECT repeat('y', 10000000) AS x")).rows[0].x;
  const parameter = (await client.query('SELECT md5($1) AS x', ['z'.repeat(5000000)])).rows[0].x;
  return [digest(rows.map(({ x }) => x).join('')), digest(value), parameter];
});

await check('cancel', async (client) => {
  const looking = await connected();
  const { rows: [{ pid }] } = await client.query('SELECT pg_backend_pid() AS pid');
  const sleeping = new pg.Query('SELECT pg_sleep(60)');
  const said = new Promise((resolve) => {
    sleeping.on('error', (error) => resolve(fields(error)));
    sleeping.on('end', () => resolve('no error'));
  });
  client.query(sleeping);
  const asleep = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
  for (let n = 0; n < LOOKS && (await looking.query(asleep, [pid])).rowCount === 0; n += 1);
  // The driver asks for it without TLS.
  const asking = new pg.Client({});
  asking.connection.on('error', () => {});
  asking.cancel(client, sleeping);
  const all = [await said, (await client.query('SELECT 1 AS n')).rows];
  await looking.end();
  return all;
});

await check('notifications', async (client) => {
  const heard = new Promise((resolve) => { client.once('notification', resolve); });
  await client.query('LISTEN drv_node');
  const speaker = await connected();
  await speaker.query("NOTIFY drv_node, 'hello: naïve 猫'");
  const { channel, payload, processId } = await heard;
  const own = processId === speaker.processID;
  await speaker.end();
  return [channel, payload, own];
});

await check('pool', async () => {
  const pool = new pg.Pool({ ssl: tls(), max: 10 });
  const all = await Promise.all(Array.from({ length: 200 }, (_, n) => pool.query('SELECT $1::int AS n', [n])));
  await pool.end();
  return all.reduce((sum, { rows }) => sum + rows[0].n, 0);
});

await check('end', async (client) => (await client.query('DROP TABLE drv_node')).command);
process.exit(failed);
