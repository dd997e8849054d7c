#!/usr/bin/env bash
# Runs the quick tests on the oldest and the newest supported Python of this machine, but for that of scripts/test.sh:
# unit tests, and a real training that is killed, stopped and goes on.
# usage: scripts/test_pythons.sh [pytest arguments]
# It says what was tested, and why another version was not: no interpreter, no room or no PyTorch for its environment,
# which is made for this and deleted. A test that fails is a failure; a version that could not be tried is none.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# shellcheck source=scripts/python_env.sh
source scripts/python_env.sh

INSTALL_TIMEOUT_SEC=600
# PyTorch for CUDA and its libraries, packed and unpacked; its build for the CPU takes far less.
CUDA_ROOM_GB=15 CPU_ROOM_GB=4
CPU_INDEX=${CLUSTER_RL_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
TESTS=(tests/unit tests/system/test_cluster_run.py -k "not test_cluster_run or killed_stopped_and_resumed or time_is_up")

# The interpreter of version $1 (3.12): a command, or one that pyenv has.
interpreter() {
    local found
    for found in "python$1" python3 "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        case $(python_version "$found") in "$1".*) command -v "$found" && return ;; esac
    done
    return 1
}

free_gb() {
    df --output=avail -BG "$ROOT" | tail -n 1 | tr -dc 0-9
}

# Makes an environment in $2 with interpreter $1; returns 1 where it cannot, with the reason in $why.
make_environment() {
    local python=$2/bin/python log=$2.log
    export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    why="$(free_gb) GB free, and $CPU_ROOM_GB are needed"
    [ "$(free_gb)" -ge "$CPU_ROOM_GB" ] || return 1
    "$1" -m venv "$2" >"$log" 2>&1 || {
        why="'$1 -m venv' failed: $(tail -n 1 "$log")"
        return 1
    }
    if [ -z "$CPU_INDEX" ] || ! timeout "$INSTALL_TIMEOUT_SEC" "$python" -m pip install --quiet --retries 0 --timeout 20 \
        --index-url "$CPU_INDEX" -c constraints.txt torch >"$log" 2>&1; then
        why="no PyTorch for the CPU at '$CPU_INDEX', and $(free_gb) GB free of $CUDA_ROOM_GB for that with CUDA"
        [ "$(free_gb)" -ge "$CUDA_ROOM_GB" ] || return 1
    fi
    run_long installing timeout "$INSTALL_TIMEOUT_SEC" "$python" -m pip install -c constraints.txt -e '.[dev]' 2>"$log" || {
        why="installing took more than $INSTALL_TIMEOUT_SEC s, or failed: $(tail -n 1 "$log")"
        return 1
    }
}

[ $# -eq 0 ] || TESTS=("$@")
choose_python
if own=$(python_version "$PYTHON"); then
    echo "$own: scripts/test.sh runs on it"
fi
found=()
for version in $PYTHON_VERSIONS; do
    if program=$(interpreter "$version"); then
        found+=("$version=$program")
    else
        echo "$version: not tested: no such interpreter found"
    fi
done

folder=$(mktemp -d "$ROOT/.venv-XXXXXX")
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
status=0
for index in "${!found[@]}"; do
    version=${found[index]%%=*} program=${found[index]#*=}
    [ "$version" != "${own%.*}" ] || continue
    if [ "$index" -ne 0 ] && [ "$index" -ne $((${#found[@]} - 1)) ]; then
        echo "$version: not tested: between the oldest and the newest"
        continue
    fi
    echo "$version: making an environment with $program"
    if make_environment "$program" "$folder/$version"; then
        verdict=tested
        "$folder/$version/bin/python" -m pytest "${TESTS[@]}" || verdict=FAILED status=1
        echo "$version: $verdict on $(python_version "$program")"
    else
        echo "$version: not tested: $why"
    fi
    rm -rf "${folder:?}/$version"
done
exit "$status"
