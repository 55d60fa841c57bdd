// node-postgres through a connection that the environment names.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { Readable, Writable } from 'node:stream';
import pg from 'pg';
import Cursor from 'pg-cursor';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';

const { PGHOST, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY } = process.env;
const ssl = { ca: fs.readFileSync(PGSSLROOTCERT, 'utf8'), servername: PGHOST };
if (PGSSLCERT) {
  ssl.cert = fs.readFileSync(PGSSLCERT, 'utf8');
  ssl.key = fs.readFileSync(PGSSLKEY, 'utf8');
}
let failed = 0;

async function check(name, work) {
  const client = new pg.Client({ ssl, enableChannelBinding: true });
  try {
    await client.connect();
    await work(client);
    console.log(`ok node-postgres ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED node-postgres ${name}`, error);
  } finally {
    await client.end().catch(() => {});
  }
}

await check('prepared', async (client) => {
  for (let n = 0; n < 20; n += 1) {
    const { rows } = await client.query({ name: 'plus', text: 'SELECT $1::int + 1 AS n', values: [n] });
    assert.equal(rows[0].n, n + 1);
  }
});

await check('transactions', async (client) => {
  await client.query('CREATE TABLE IF NOT EXISTS drv_node (n int)');
  await client.query('TRUNCATE drv_node');
  await client.query('BEGIN');
  await client.query('INSERT INTO drv_node VALUES ($1)', [1]);
  await client.query('ROLLBACK');
  const { rows } = await client.query('SELECT count(*)::int AS n FROM drv_node');
  assert.equal(rows[0].n, 0);
});

await check('errors', async (client) => {
  await assert.rejects(client.query('SELECT * FROM no_such_table'), { code: '42P01' });
  assert.equal((await client.query('SELECT 1 AS n')).rows[0].n, 1);
});

await check('copy', async (client) => {
  const lines = Readable.from((function* numbers() {
    for (let n = 0; n < 100000; n += 1) yield `${n}\n`;
  })());
  await pipeline(lines, client.query(copyFrom('COPY drv_node FROM STDIN')));
  let bytes = 0;
  const sink = new Writable({ write(piece, _, done) { bytes += piece.length; done(); } });
  await pipeline(client.query(copyTo('COPY drv_node TO STDOUT')), sink);
  assert.equal(bytes, 588890);
});

await check('cursor', async (client) => {
  const cursor = client.query(new Cursor('SELECT generate_series(1, 10000) AS n'));
  let rows = 0;
  for (;;) {
    const some = await cursor.read(1000);
    if (some.length === 0) break;
    rows += some.length;
  }
  assert.equal(rows, 10000);
});

await check('large', async (client) => {
  const { rows } = await client.query("SELECT repeat('x', 100) AS x FROM generate_series(1, 200000)");
  assert.equal(rows.length, 200000);
});

await check('notifications', async (client) => {
  const heard = new Promise((resolve) => { client.once('notification', resolve); });
  await client.query('LISTEN drv_node');
  await client.query("NOTIFY drv_node, 'hello'");
  assert.equal((await heard).payload, 'hello');
});

await check('pool', async () => {
  const pool = new pg.Pool({ ssl, max: 10 });
  const all = await Promise.all(Array.from({ length: 200 }, (_, n) => pool.query('SELECT $1::int AS n', [n])));
  assert.deepEqual(all.map(({ rows }) => rows[0].n), Array.from({ length: 200 }, (_, n) => n));
  await pool.end();
});

await check('end', (client) => client.query('DROP TABLE IF EXISTS drv_node'));
process.exit(failed);
