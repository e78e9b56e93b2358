# Sourced by the launchers beside it: makes .venv from the hashed lock file once, and again when the lock changes.
# shellcheck shell=sh
# Sets $root. When nothing has to be done it costs one cmp(1).
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
lock=$root/requirements/toolkit.txt
stamp=$root/.venv/.lock

# Ctrl-C, SIGTERM and SIGHUP end this in two lines, with what runs at the moment: the launchers' traps call this. One that was
# ignored when they were started (`nohup`, `&` in a script) stays ignored: no shell can set a trap for it.
before=
stopped() {
    trap '' INT TERM HUP
    if [ "${!-}" != "$before" ]; then
        kill -TERM "$!" 2>/dev/null || true
        wait "$!" 2>/dev/null || true
    fi
    printf '    nothing was started; run the same command again\nerror: %s\n' "$1" >&2
    exit "$2"
}

# Runs a program so that a signal need not wait for its end.
run() {
    "$@" &
    set -- 0
    wait "$!" || set -- $?
    before=$! # has ended: another process may get its number
    return "$1"
}

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 5
}

find_python() {
    for name in "${SHIPYARD_PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$(command -v "$name")
            return 0
        fi
    done
    return 1
}

apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    printf '==> installing %s with apt-get\n' "$*" >&2
    # An update that fails for one source still serves the others: the install decides.
    apt-get -qq update >&2 || true
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$@" >/dev/null
}

make_environment() {
    find_python || { apt_install python3 python3-venv && find_python; } ||
        fail 'Python 3.11 or newer is needed; install it (on Debian: apt-get install python3 python3-venv) or name it in SHIPYARD_PYTHON'
    "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv ||
        fail "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
    printf '==> making .venv with %s from requirements/toolkit.txt\n' "$python" >&2
    rm -f "$stamp"
    run "$python" -m venv --clear "$root/.venv" || fail "the virtual environment $root/.venv could not be made"
    run "$root/.venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes --requirement "$lock" ||
        fail 'the locked requirements could not be installed; is the package index reachable?'
    cp "$lock" "$stamp.$$" && mv "$stamp.$$" "$stamp"
}

if ! cmp -s "$lock" "$stamp"; then
    if command -v flock >/dev/null; then
        exec 9>"$root/.venv.lock"
        run flock 9
    fi
    cmp -s "$lock" "$stamp" || make_environment
    exec 9>&-
fi
# A git hook or an editor may have left these; they would pick up modules of somewhere else.
unset PYTHONHOME PYTHONPATH
PATH=$root/.venv/bin:$PATH
VIRTUAL_ENV=$root/.venv
export PATH VIRTUAL_ENV
