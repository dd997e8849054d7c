#!/usr/bin/env bash
# Trains about five minutes on this machine, then renders videos and maps. Typed again, it goes on where it stopped.
# usage: scripts/train.sh [--config FILE] [--run-name NAME] [--runs FOLDER] [--rom ROM] [--key value ...]
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/python_env.sh
source "$ROOT/scripts/python_env.sh"
prepare_python "" torch

run_name=
config=
rom=
show=
runs=${CLUSTER_RL_RUNS:-cluster_runs}
render=()
arguments=("$@")
for ((i = 0; i < ${#arguments[@]}; i++)); do
    case ${arguments[i]} in
        --run-name | --run_name) run_name=${arguments[i + 1]:-} ;;
        --run-name=* | --run_name=*) run_name=${arguments[i]#*=} ;;
        --runs) runs=${arguments[i + 1]:-} ;;
        --runs=*) runs=${arguments[i]#*=} ;;
        --config | --config=*) config=given ;;
        --rom) rom=${arguments[i + 1]:-} ;;
        --rom=*) rom=${arguments[i]#*=} ;;
        --dry-run | --dry_run | -h | --help) show=yes ;;
    esac
done

train=("$PYTHON" -m cluster_rl.train_cluster --default-config quickstart)
if [ -n "$rom" ]; then
    render=(--rom "$rom")
    # Red's preset, which is taken then, is for longer jobs.
    [ -n "$config" ] || train+=(--max_runtime_seconds 300)
    [ -n "$config" ] || run_name=${run_name:-red_cpu}
fi
run_name=${run_name:-quickstart}
train+=(--run-name "$run_name" "$@")
[ -z "$show" ] || exec "${train[@]}"

status=0
"${train[@]}" || status=$?
# 85: the time is up and the run goes on with the next job.
[ $status -eq 0 ] || [ $status -eq 85 ] || exit $status

run=$runs/$run_name
replay=("$PYTHON" -m cluster_rl.replayer --logs "$run/episode_logs" --out "$run/videos" --fps 30 "${render[@]}")
if compgen -G "$run/episode_logs/*" >/dev/null; then
    echo "Rendering the newest episodes"
    "${replay[@]}" --limit 12
else
    echo "No episode was recorded, so there is nothing to render"
fi
done_words='Done.'
! grep -qs '^  "updates": 0,' "$run/progress.json" || done_words='Nothing was learned: progress.json says why. Go on with the same command.'
cat <<END

$done_words Look at
  $run/progress.json        what was reached, and why each job stopped
  $run/videos/              one MP4 an episode, and maps/ with where the agent has been
  $run/online_params.pt     the newest parameters, averaged over some 200 updates
  $run/tensorboard/         curves: $PYTHON -m tensorboard.main --logdir $run/tensorboard
Go on:               scripts/train.sh${arguments[@]+$(printf ' %q' "${arguments[@]}")}
All the episodes:    $(printf '%q ' "${replay[@]}")
Other commands:      source $(dirname "$PYTHON")/activate, then python -m cluster_rl.evaluate ... and so on
END
