# For the scripts beside this one: the same command by the front and at the primary itself, whose name is NODE; also by the
# front for those who read. The certificate is one of the pool, without which a node lets nobody in.
set -euo pipefail

declare -A HOSTS=([front]="$FRONT" [directly]="$NODE" [reading]="$FRONT-ro")
export PGCONNECT_TIMEOUT=10
# PostgreSQL's programs themselves, and not what Debian calls them by.
PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH

# Runs a command on a way: its output, its complaints and how it ended are kept there under NAME.
on() { # WAY NAME COMMAND…
  local way=$1 name=$2 status=0
  shift 2
  mkdir -p "/tmp/ways/$way"
  cd "/tmp/ways/$way"
  PGHOST=${HOSTS[$way]} PGSSLMODE=verify-full PGSSLCERT=/own/tls.crt PGSSLKEY=/own/tls.key \
    timeout 500 "$@" >"$name.out" 2>"$name.err" </dev/null || status=$?
  echo "$status" >"$name.status"
  # Where it was connected to, and the numbers of processes, are another's in each session.
  sed -Ei -e 's/server at "[^"]+" \([0-9a-f.:]+\)/server at THERE/' -e 's/with PID [0-9]+/with PID N/' "$name.out" "$name.err"
}

# The same, and it has to succeed.
on_well() { # WAY NAME COMMAND…
  on "$@"
  local kept="/tmp/ways/$1/$2"
  if [ "$(cat "$kept.status")" != 0 ]; then
    echo "$1, $2:"
    tail -n 20 "$kept.out" "$kept.err"
    exit 1
  fi
}

# The same command on both ways, one after the other.
both() { # NAME COMMAND…
  on front "$@"
  on directly "$@"
}

both_well() { # NAME COMMAND…
  on_well front "$@"
  on_well directly "$@"
}

# Fails where a file of one way is another on the other way, or one of the two is missing.
compared() {
  cd /tmp/ways
  if ! diff --recursive --text --unified=1 directly front >/tmp/differences; then
    head -c 6000 /tmp/differences
    exit 1
  fi
  echo "$(find front -type f | wc -l) files, $(cat front/* | wc -c) bytes, the same on both ways"
}
