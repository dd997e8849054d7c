# shellcheck shell=bash
# Sourced by train.sh, test.sh, test_pythons.sh and env_setup.sh.

# What the tests run on; setup.cfg says the same.
PYTHON_VERSIONS="3.11 3.12 3.13"

# The version of interpreter $1, such as 3.11.7; nothing if it does not run.
python_version() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

# Whether a version such as 3.11.7 is one of these.
is_supported() {
    case " $PYTHON_VERSIONS " in *" ${1%.*} "*) return 0 ;; *) return 1 ;; esac
}

# Sets $BASE_PYTHON to an interpreter of a supported version.
find_python() {
    local version='' others=''
    # Version managers leave commands that exist but do not run, so each one is tried.
    for BASE_PYTHON in python3 python3.13 python3.12 python3.11; do
        version=$(python_version "$BASE_PYTHON") || continue
        ! is_supported "$version" || return 0
        others=" ($BASE_PYTHON is $version)"
    done
    echo "error: no Python of ${PYTHON_VERSIONS// /, } found$others; install one of them beside what is there" \
        "(your distribution's package, your cluster's module, conda or uv) and run this again" >&2
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

# Sets $PYTHON to the interpreter of the environment that is used here, which may have to be made.
choose_python() {
    PYTHON=${CLUSTER_RL_PYTHON:-${VIRTUAL_ENV:-$ROOT/.venv}/bin/python}
}

# Sets $PYTHON to an interpreter that has the package installed, making .venv on the first call. $1: extras to install,
# such as "" or "[dev]"; $2: a module that shows they are there.
prepare_python() {
    local extras=$1 probe=$2
    choose_python
    if [ ! -x "$PYTHON" ]; then
        find_python
        echo "Making a virtual environment in $ROOT/.venv"
        "$BASE_PYTHON" -m venv "$ROOT/.venv" || {
            echo "error: 'python3 -m venv' failed; install your distribution's python3-venv package" >&2
            exit 2
        }
        PYTHON=$ROOT/.venv/bin/python
    fi
    local version
    version=$(python_version "$PYTHON") || version="no Python that runs"
    if ! is_supported "$version"; then
        echo "error: $PYTHON is $version, and this needs one of ${PYTHON_VERSIONS// /, }; activate another environment" \
            "or none, or delete this one" >&2
        exit 2
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
