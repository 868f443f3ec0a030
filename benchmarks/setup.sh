#!/usr/bin/env bash
# Makes one virtualenv per peer group (and one npm folder) under $BENCH_HOME.
# usage: ./setup.sh            everything
#        ./setup.sh rq celery  only these groups
# Pins are exact: change them here, rerun, and note the new versions in RESULTS.md.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1      # the group `toril` installs this repository
BENCH_HOME="${BENCH_HOME:-$HOME/.cache/toril-bench}"
PYTHON="${PYTHON:-python3}"
mkdir -p "$BENCH_HOME/venv" "$BENCH_HOME/node" "$BENCH_HOME/log"

declare -A REQ=(
  [base]="redis[hiredis]==8.1.0 uvloop==0.23.0 psutil==7.2.2 asyncpg==0.32.0 psycopg[binary]==3.3.9"
  [bullmq]="bullmq[postgres]==3.4.4 async-timeout==5.0.1 uvloop==0.23.0 hiredis==3.5.0"
  [celery]="celery[redis]==5.7.0 hiredis==3.5.0"
  [rq]="rq==3.0.0 hiredis==3.5.0"
  [dramatiq]="dramatiq[redis]==2.2.1 async-timeout==5.0.1 hiredis==3.5.0"
  [arq]="arq==0.28.0 uvloop==0.23.0 hiredis==3.5.0"
  [saq]="saq[redis,postgres,hiredis]==0.26.4 uvloop==0.23.0"
  [taskiq]="taskiq==0.13.0 async-timeout==5.0.1 taskiq-redis==1.2.4 uvloop==0.23.0 hiredis==3.5.0 orjson==3.13.0"
  [huey]="huey==3.5.4 async-timeout==5.0.1 redis==8.1.0 hiredis==3.5.0"
  [streaq]="streaq==7.2.0 uvloop==0.23.0"
  [procrastinate]="procrastinate==3.10.0 psycopg[binary,pool]==3.3.9 uvloop==0.23.0"
  [pgqueuer]="pgqueuer==1.6.0 asyncpg==0.32.0 uvloop==0.23.0"
  [toril]="--editable .[redis] uvloop==0.23.0 hiredis==3.5.0"
  [chancy]="chancy==0.26.0 psycopg[binary,pool]==3.3.9 uvloop==0.23.0"
)
NODE_REQ="bullmq@6.7.0 ioredis@6.0.0 pg@8.23.1"

groups=("$@"); [ ${#groups[@]} -eq 0 ] && groups=("${!REQ[@]}" node)
fail=0
for g in "${groups[@]}"; do
  if [ "$g" = node ]; then
    (cd "$BENCH_HOME/node" && { [ -f package.json ] || npm init -y >/dev/null 2>&1; } &&
      npm install --no-audit --no-fund --save-exact $NODE_REQ) >"$BENCH_HOME/log/node.txt" 2>&1 \
      && echo "node: ok" || { echo "node: FAILED, see $BENCH_HOME/log/node.txt"; fail=1; }
    continue
  fi
  v="$BENCH_HOME/venv/$g"
  # psutil is in every venv: the harness' worker-side probe uses it.
  { [ -x "$v/bin/python" ] || "$PYTHON" -m venv "$v"; "$v/bin/pip" install -q psutil==7.2.2 ${REQ[$g]}; } \
    >"$BENCH_HOME/log/$g.txt" 2>&1 && { echo "$g: ok"; "$v/bin/pip" freeze --exclude-editable >"$BENCH_HOME/log/$g.freeze"; } \
    || { echo "$g: FAILED, see $BENCH_HOME/log/$g.txt"; fail=1; }
done
exit $fail
