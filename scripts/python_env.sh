# shellcheck shell=bash
# Sourced by train.sh, test.sh and env_setup.sh.

# Sets $BASE_PYTHON to an interpreter of version 3.11 or newer.
find_python() {
    # Version managers leave commands that exist but do not run, so each one is tried.
    for BASE_PYTHON in python3 python3.13 python3.12 python3.11 none; do
        "$BASE_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    done
    echo "error: no Python of version 3.11 or newer found; install python3.11 and run this again" >&2
    exit 2
}

LINE_INTERVAL_SEC=60

# run_long WHAT COMMAND...: runs a command that takes minutes. A terminal shows all that it writes; elsewhere it is a line
# a minute, with its newest words.
run_long() {
    local what=$1 line='' newest='' began=$SECONDS due=$((SECONDS + LINE_INTERVAL_SEC))
    shift
    if [ -t 1 ]; then
        "$@"
        return
    fi
    "$@" | while :; do
        if IFS= read -rt 1 line; then
            newest=${line//[^[:print:]]/}
        elif [ $? -le 128 ]; then # not its time limit: the end
            break
        fi
        if [ $SECONDS -ge $due ]; then
            due=$((SECONDS + LINE_INTERVAL_SEC))
            echo "$what: $((SECONDS - began)) s, ${newest:0:100}"
        fi
    done
}

# Sets $PYTHON to an interpreter that has the package installed, making .venv on the first call. $1: extras to install,
# such as "" or "[dev]"; $2: a module that shows they are there.
prepare_python() {
    local extras=$1 probe=$2
    PYTHON=${CLUSTER_RL_PYTHON:-}
    if [ -z "$PYTHON" ]; then
        if [ -n "${VIRTUAL_ENV:-}" ]; then
            PYTHON=$VIRTUAL_ENV/bin/python
        else
            PYTHON=$ROOT/.venv/bin/python
        fi
    fi
    if [ ! -x "$PYTHON" ]; then
        find_python
        echo "Making a virtual environment in $ROOT/.venv"
        "$BASE_PYTHON" -m venv "$ROOT/.venv" || {
            echo "error: 'python3 -m venv' failed; install your distribution's python3-venv package" >&2
            exit 2
        }
        PYTHON=$ROOT/.venv/bin/python
    fi
    # A stamp of the requirements keeps later calls from asking pip; the probe catches a broken environment.
    local stamp want
    stamp=$("$PYTHON" -c 'import os, site, sys; print(sys.prefix if not os.environ.get("PIP_USER") else site.getuserbase())')/.cluster_rl$(echo "$extras" | tr -d '[]')
    want=$(cat "$ROOT/setup.cfg" "$ROOT/constraints.txt" | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || ! (cd / && "$PYTHON" -c "import cluster_rl, $probe" 2>/dev/null); then
        echo "Installing cluster_rl$extras (the first time takes a few minutes)"
        run_long "installing" "$PYTHON" -m pip install --disable-pip-version-check -c "$ROOT/constraints.txt" -e "$ROOT$extras"
        echo "$want" >"$stamp"
    fi
}
