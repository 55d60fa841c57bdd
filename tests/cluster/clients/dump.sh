. /scripts/ways.sh
export PGDATABASE=$OWN

on_well front filled psql -Xq -v ON_ERROR_STOP=1 -f /scripts/fill.sql
on_well front benched pgbench --initialize --quiet
rm -f /tmp/ways/*/*

# The key of \restrict is another one in each run.
plain() { # COMMAND…
  set -o pipefail
  "$@" | sed -E '/^\\(un)?restrict /d'
}
export -f plain

both_well plain bash -c 'plain pg_dump'
both_well inserts bash -c 'plain pg_dump --schema=shop --column-inserts --clean --if-exists --create'
both_well roles bash -c 'plain pg_dumpall --roles-only --no-role-passwords'
compared
# A standby has sequences as WAL has them: up to 32 numbers ahead, whatever way one comes.
on_well reading plain bash -c 'plain pg_dump'
for way in reading front; do
  sed '/pg_catalog.setval(/d' "/tmp/ways/$way/plain.out" >"/tmp/$way.sql"
  grep 'pg_catalog.setval(' "/tmp/ways/$way/plain.out" >"/tmp/$way.sequences"
done
cmp /tmp/reading.sql /tmp/front.sql
echo "sequences ahead at a standby: $(comm -13 <(sort /tmp/front.sequences) <(sort /tmp/reading.sequences) | wc -l) of $(wc -l </tmp/front.sequences)"

# By the front into another database: of one file, and by several sessions at once.
cd /tmp
export PGHOST=$FRONT PGSSLMODE=verify-full
for format in custom directory; do
  jobs=$([ $format = directory ] && echo --jobs=3 || true)
  pg_dump --format=$format $jobs --file=/tmp/dump
  pg_restore --exit-on-error --jobs=3 --dbname="$RESTORED" /tmp/dump
  plain pg_dump "$RESTORED" >/tmp/restored.sql
  cmp /tmp/restored.sql /tmp/ways/front/plain.out
  rm -r /tmp/dump
  psql -Xq -d "$RESTORED" -c 'SET client_min_messages = error' -c 'DROP SCHEMA shop CASCADE' \
    -c 'DROP TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers' \
    -c 'SELECT lo_unlink(oid) FROM pg_largeobject_metadata' >/dev/null
done
psql -XAtq -d "$RESTORED" -v ON_ERROR_STOP=1 -f /tmp/restored.sql >/dev/null
plain pg_dump "$RESTORED" | cmp - /tmp/ways/front/plain.out
