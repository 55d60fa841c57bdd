. /scripts/ways.sh
export PGSSLCERT=/own/tls.crt PGSSLKEY=/own/tls.key

# The authority of somebody else.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=other -keyout /dev/null -out /tmp/other.crt 2>/dev/null

# Each line has settings of libpq, in which @ stands for the address; for each there are two lines of what came of it.
while read -r settings; do
  for way in front directly; do
    address=$(getent ahostsv4 "${HOSTS[$way]}")
    address=${address%%[[:space:]]*}
    psql -Xw -d "host=${HOSTS[$way]} ${settings//@/$address}" -c '\conninfo' 2>&1 </dev/null | tr '\n' ' ' || true
    echo
  done
done
