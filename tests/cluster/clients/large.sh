. /scripts/ways.sh
export PGDATABASE=$OWN
way=$1 size=$2

# One way at a time: what the front's memory comes to is looked at in between.

# A reader that stops for a while soon after the beginning, and what it has read.
slow() {
  { head -c 1000000; sleep 4; cat; } | cksum
}
# So many MB in lines of 1,000 bytes and some; 100 MB in one message; 64 MB up.
lines="COPY (SELECT repeat(md5(n::text), 32) FROM generate_series(1, $((size * 1000))) n) TO STDOUT"
message="COPY (SELECT repeat('0123456789', 10000000)) TO STDOUT"
down() { # SQL
  psql -Xqc "$1" | slow
}
rows() {
  psql -XAtq -v FETCH_COUNT=1000 -c "SELECT md5(n::text) FROM generate_series(1, 300000) n" | cksum
}
up() {
  yes 'thirty-one bytes of a long story' | head -n 2000000 |
    psql -Xq -c 'CREATE TEMPORARY TABLE story (said text)' -c '\copy story from pstdin' \
      -c 'SELECT count(*), sum(hashtext(said)::bigint) FROM story'
}
export -f slow down rows up

# All at once.
on_well "$way" lines bash -c "set -o pipefail; down '$lines'" &
on_well "$way" message bash -c "set -o pipefail; down \"$message\"" &
on_well "$way" rows bash -c 'set -o pipefail; rows' &
on_well "$way" up bash -c up &
for job in $(jobs -p); do wait "$job"; done
if [ "$way" = directly ]; then compared; fi
