#!/usr/bin/env bash
# Makes this folder ready to run.
#
#   tools/setup.sh demo       .venv with Toril in it
#   tools/setup.sh check      ... and the linters, type checkers and test tools (the group `test` of pyproject.toml)
#   tools/setup.sh test       ... and the servers that the tests talk to
#   tools/setup.sh hand-back  after `sudo make`: give what root has written here to the person who ran sudo
#
# Says in a line what it installs and why; silent when nothing is missing. PYTHON=... names the interpreter to use.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

goal="${1:?demo, check, test or hand-back}"
here="$(pwd -P)"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*" >&2; }
stop() { say "make $goal: $*"; exit 1; }

# Run a command unseen. If it fails, keep what it said in $log and its last telling line in $reason.
log="" reason=""
unseen() {
  [ -n "$log" ] || log="$(mktemp "${TMPDIR:-/tmp}/toril-setup.XXXXXX")"
  "$@" >"$log" 2>&1 && return
  reason="$(grep -iE '^ *(E:|error: (no|could not|.*(denied|space)))' "$log" | tail -n 1 | sed 's/^ *//' || true)"
  [ -n "$reason" ] || reason="$(grep -v '^ *$' "$log" | tail -n 1 || true)"
  return 1
}
trap 'status=$?; if [ $status = 0 ] && [ -n "$log" ]; then rm -f "$log"; fi' EXIT


# ---- apt

# apt_install PACKAGE WHY
apt_install() {
  local package="$1" why="$2" as_root=()
  command -v apt-get >/dev/null ||
    stop "$package is missing ($why) and this machine has no apt: install it by hand, then run \`make $goal\` again."
  if [ "$(id -u)" != 0 ]; then
    local by_hand="ask an administrator to run \`apt-get install $package\`, then run \`make $goal\` again."
    command -v sudo >/dev/null || stop "$package is missing ($why) and there is no sudo here: $by_hand"
    sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; } || stop "$package is missing ($why) and sudo refuses: $by_hand"
    as_root=(sudo)
  fi
  say "Installing $package by apt: $why."
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120)
  local install=("${as_root[@]}" "${apt[@]}" install --no-install-recommends "$package")
  unseen "${install[@]}" && return
  # The package lists may be absent (a fresh container) or older than the archive.
  unseen "${as_root[@]}" "${apt[@]}" update ||
    stop "apt cannot refresh its package lists ($reason): check the network, then run \`make $goal\` again; details in $log."
  unseen "${install[@]}" ||
    stop "apt cannot install $package ($reason): try \`apt-get install $package\` by hand, then run \`make $goal\` again; details in $log."
}

# need COMMAND PACKAGE WHY
need() {
  command -v "$1" >/dev/null || apt_install "$2" "$3"
}


# ---- Python

new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
has_venv='import ensurepip, venv'

# The first interpreter that is new enough, one that can make a virtual environment before one that cannot.
find_python() {
  local candidate usable=""
  local candidates=(python3 python3.14 python3.13 python3.12 python3.11)
  [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    "$candidate" -c "$new_enough" >/dev/null 2>&1 || continue
    if "$candidate" -c "$has_venv" >/dev/null 2>&1; then
      python="$candidate"
      return
    fi
    usable="${usable:-$candidate}"
  done
  python="$usable"
  [ -n "$python" ] && return
  local found
  found="$("${candidates[0]}" --version 2>/dev/null || echo nothing)"
  stop "Toril needs Python 3.11 or newer and found $found (${candidates[0]}): install python3.11 or newer," \
    "or name one, as in \`make $goal PYTHON=/path/to/python3.12\`."
}

make_venv() {
  local python
  find_python
  if ! "$python" -c "$has_venv" >/dev/null 2>&1; then
    local home version
    home="$("$python" -c 'import sys; print(sys.base_prefix)')"
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    [ "$home" = /usr ] ||
      stop "$python was built without ensurepip: name another interpreter, as in \`make $goal PYTHON=/usr/bin/python3\`."
    apt_install "python$version-venv" "Debian's Python needs it to make the virtual environment .venv"
  fi
  say "Making .venv with $("$python" --version): everything Python is installed there and nowhere else."
  unseen "$python" -m venv --clear .venv ||
    stop "$python cannot make the virtual environment $here/.venv ($reason): check the rights and free space there, then run \`make $goal\` again; details in $log."
}

# A .venv counts only if it is complete, new enough and was made in this very folder (its scripts hold the path).
venv_is_sound() {
  [ -x .venv/bin/pip ] && .venv/bin/python -c "$new_enough" 2>/dev/null && head -n 2 .venv/bin/pip | grep -qF "$here/.venv/bin/"
}

# install STAGE WHY ARGUMENT...: once for each content of pyproject.toml
install() {
  local stage="$1" why="$2" stamp=".venv/.ready-$1" key
  shift 2
  key="$(sha256sum <pyproject.toml)"
  [ "$(cat "$stamp" 2>/dev/null)" != "$key" ] || return 0
  say "Installing $why into .venv by pip."
  unseen .venv/bin/python -m pip install --quiet "$@" ||
    stop "pip cannot install $why ($reason): check that this machine reaches its package index, then run \`make $goal\` again; details in $log."
  printf '%s\n' "$key" >"$stamp"
}

python_packages() {
  if [ -d .venv ] && [ ! -w .venv ]; then
    stop "$here/.venv belongs to another user: remove it (\`sudo rm -r .venv\`), then run \`make $goal\` again."
  fi
  venv_is_sound || make_venv
  install demo "Toril itself" --editable .
  [ "$goal" != demo ] || return 0
  install pip "a pip that knows dependency groups" --upgrade "pip>=25.1"
  install check "linters, type checkers and test tools (the group \`test\` of pyproject.toml)" --group test --editable .
}


# ---- servers

servers() {
  need redis-server redis-server "the tests of the Redis store each use a server of their own"
  need chromium chromium "the tests look at Bull Board as a person would"
  # PostgreSQL comes here with the first test that needs it.
}

# The real BullMQ and Bull Board, once for each content of package.json.
node_packages() {
  local folder=tests/interop/node key
  need node nodejs "the tests let the real BullMQ share queues with Toril"
  need npm npm "it installs the real BullMQ for the tests"
  key="$(sha256sum <$folder/package.json)"
  [ "$(cat $folder/node_modules/.ready 2>/dev/null)" != "$key" ] || return 0
  say "Installing BullMQ 5 and 6 and Bull Board into $folder/node_modules by npm."
  unseen npm install --prefix $folder --no-package-lock --no-audit --no-fund --ignore-scripts ||
    stop "npm cannot install the packages of $folder ($reason): check that this machine reaches its npm registry, then run \`make $goal\` again; details in $log."
  printf '%s\n' "$key" >$folder/node_modules/.ready
}


hand_back() {
  [ "$(id -u)" = 0 ] && [ -n "${SUDO_UID:-}" ] && [ "$(stat -c %u .)" = "$SUDO_UID" ] || return 0
  find . -xdev -path ./.git -prune -o -user 0 -exec chown -h "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" {} +
}


case "$goal" in
  demo | check | test)
    # Two makes at once take turns; the lock is this file, so there is nothing to clean up.
    exec 9<tools/setup.sh
    ! command -v flock >/dev/null || flock 9
    python_packages
    [ "$goal" != test ] || { servers; node_packages; }
    hand_back
    ;;
  hand-back) hand_back ;;
  *) stop "say demo, check, test or hand-back." ;;
esac
