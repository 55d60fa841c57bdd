. /scripts/ways.sh
export PGDATABASE=$OWN
declare -i wanted=0

# All transactions of all clients succeed.
run() { # NAME WAY TRANSACTIONS OPTION…
  local name=$1 way=$2
  local -i each=$3
  shift 3
  on "$way" "$name" pgbench --no-vacuum --client=4 --transactions=$each --verbose-errors "$@"
  local said="/tmp/ways/$way/$name.out"
  if ! grep -q "actually processed: $((4 * each))/$((4 * each))" "$said" || ! grep -q 'failed transactions: 0 ' "$said"; then
    echo "$way, $name:"
    cat "$said" "${said%.out}.err"
    exit 1
  fi
}

on_well front filled pgbench --initialize --quiet
for mode in simple extended prepared; do
  for way in front directly; do
    run "tpcb-$mode" $way 100 --protocol=$mode
    wanted+=400
    run "select-$mode" $way 400 --protocol=$mode --select-only
  done
done
run connect front 10 --connect --select-only
on_well front lined psql -Xqc 'CREATE TABLE lined (client int, said text)'
for mode in extended prepared; do
  for way in front directly; do
    run "pipeline-$mode" $way 50 --protocol=$mode --file=/scripts/pipeline.sql
  done
done
on_well front sums psql -XAtqc "SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts),
  sum(delta) = (SELECT sum(bbalance) FROM pgbench_branches), sum(delta) = (SELECT sum(tbalance) FROM pgbench_tellers),
  (SELECT count(*) FROM lined WHERE said = 'first.') FROM pgbench_history"
sums=$(cat /tmp/ways/front/sums.out)
if [ "$sums" != "$wanted|t|t|t|800" ]; then
  echo "the tables say $sums"
  exit 1
fi
grep -h -e '^tps' /tmp/ways/*/tpcb-*.out | tr '\n' ';'
echo " $sums"
