#!/usr/bin/env bash
# Runs every check of the project: lint, types, shell scripts, import contracts, tests. Installs what it needs.
# usage: scripts/test.sh [pytest arguments]
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# shellcheck source=scripts/python_env.sh
source scripts/python_env.sh
prepare_python "[dev]" pytest

# A browser for tests/browser, where it may be installed; where there is none these tests are skipped, and say so.
if [ $# -eq 0 ] && ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    get=(apt-get install -y -qq --no-install-recommends chromium)
    export DEBIAN_FRONTEND=noninteractive
    run_long "installing Chromium" "${get[@]}" || { apt-get update -qq && "${get[@]}"; } || true
fi
# One thread a process: the tests start several processes, and two cores are all we ask for.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ $# -eq 0 ]; then
    "$PYTHON" -m ruff check .
    "$PYTHON" -m ruff format --check .
    "$PYTHON" -m mypy
    "$(dirname "$PYTHON")/shellcheck" -x --severity=warning scripts/*.sh slurm/*.sh slurm/*.sbatch tests/cluster/local-slurm .ci/run
    PYTHONPATH=$ROOT "$PYTHON" -c 'import sys; from importlinter.cli import lint_imports_command as run; sys.argv[0] = "lint-imports"; run()' --config setup.cfg
fi
if [ $# -gt 0 ]; then
    exec "$PYTHON" -m pytest "$@"
fi
# Many of the tests start programs: compiled once, these start sooner.
unset PYTHONDONTWRITEBYTECODE
# Three parts, side by side. What starts whole runs on this machine, or measures time, is in one of them, as it waits with
# time limits; the tests of the batch system mostly wait for it. The third is all else.
RUNS=(tests/chaos tests/system tests/unit/wire)
QUEUES=(tests/cluster tests/browser tests/system/test_{env_setup,notebook}.py tests/fuzz tests/unit/{batch_system,report,runs,scripts})
SLOWEST=(--durations=20 --durations-min=5)
reports=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait; rm -rf "$reports"' EXIT
"$PYTHON" -m pytest "${SLOWEST[@]}" "${QUEUES[@]}" >"$reports/0" 2>&1 &
pids+=($!)
"$PYTHON" -m pytest "${SLOWEST[@]}" "${RUNS[@]/#/--ignore=}" "${QUEUES[@]/#/--ignore=}" >"$reports/1" 2>&1 &
pids+=($!)
status=0
"$PYTHON" -m pytest "${SLOWEST[@]}" "${RUNS[@]}" "${QUEUES[@]/#/--ignore=}" || status=$?
for index in "${!pids[@]}"; do
    wait "${pids[index]}" || status=$?
    cat "$reports/$index"
done
exit "$status"
