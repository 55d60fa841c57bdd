. /scripts/ways.sh
export PGDATABASE=$OWN

# A statement that is cancelled once it runs.
cancelled() {
  PGAPPNAME=asked psql -X -v VERBOSITY=verbose -c 'SELECT pg_sleep(60)' &
  until [ "$(psql -XAtc "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asked' AND state = 'active'")" = 1 ]; do :; done
  kill -INT $!
  wait $!
}
export -f cancelled

both_well said psql -Xef /scripts/said.sql
both cancelled bash -c cancelled
both ended psql -X -v VERBOSITY=verbose -c 'SELECT pg_terminate_backend(pg_backend_pid())'
both_well tidied vacuumdb --echo --analyze --table pg_catalog.pg_class
both refused createdb --echo no_right
for way in front directly; do
  grep -q '57014' "/tmp/ways/$way/cancelled.err"
  grep -q '57P01' "/tmp/ways/$way/ended.err"
done
compared
