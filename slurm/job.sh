# Sourced by the job scripts, in the repository's folder: settings, the environment's Python, and `run_job`.
# shellcheck shell=bash

# What differs between clusters and users is in slurm/settings.env; what is set outside goes before it.
if [ ! -f slurm/settings.env ]; then
    echo "error: slurm/settings.env is not here ($PWD); submit from the repository's folder" >&2
    exit 2
fi
settings=$(export -p)
# shellcheck source=slurm/settings.env
. slurm/settings.env
eval "$settings"
if [ -z "${CLUSTER_RL_PYTHON:-}" ]; then
    CLUSTER_RL_PYTHON=$(command -v python3) || CLUSTER_RL_PYTHON=
fi
# The package alone would be found in this folder by any Python; what it needs would not.
if ! said=$("$CLUSTER_RL_PYTHON" -c 'import msgspec, zmq, cluster_rl' 2>&1); then
    why=$(grep Error <<<"$said" | tail -n 1) || :
    why=${why:-${said##*$'\n'}}
    # Python's own variables go before the environment, wherever they came from: a module, a login file.
    for name in PYTHONPATH PYTHONHOME; do
        [ -z "${!name:-}" ] || why+="; $name is set (${!name}): if what lies there is not for this Python, unset it"
    done
    echo "error: CLUSTER_RL_PYTHON (${CLUSTER_RL_PYTHON:-none}) cannot import cluster_rl and what it needs:" \
        "$why; scripts/env_setup.sh makes an environment and names it in slurm/settings.env" >&2
    exit 2
fi

# A job that was submitted from inside an array's task has inherited the array's variables.
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ] && [ "$SLURM_ARRAY_JOB_ID" != "${SLURM_JOB_ID:-}" ] &&
    shown=$(scontrol show job "${SLURM_JOB_ID:-}" --oneliner 2>/dev/null); then
    case $shown in *" ArrayTaskId="*) ;; *) unset SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID ;; esac
fi
# This job, as SLURM's commands know it: an array's number alone would mean all its tasks.
job_id=${SLURM_JOB_ID:-}
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || job_id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
# A name that sbatch was given is the same for all tasks of an array, so each is the run of one seed. One that a script
# makes itself stays as it is.
seeds_of='' last_word=''
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
    for word; do
        case $last_word in --run-name | --run_name) seeds_of=$word ;; esac
        case $word in --run-name=* | --run_name=*) seeds_of=${word#*=} ;; esac
        last_word=$word
    done
fi

# run_job MODULE ARGUMENTS...: runs `python -m cluster_rl.MODULE`, hands SLURM's signals on to it, and then asks
# `cluster_rl.cluster after-job` whether the run's next job should follow.
#
# USR2 (or USR1) is SLURM's warning before the time limit: checkpoint, and go on in the next job. TERM is scancel, or the
# limit itself: checkpoint, and end for good. If TERM went on with the chain, nobody could cancel it. HUP is a terminal
# that was closed, and with it what this script writes to; under nohup the shell goes on ignoring it.
run_job() {
    local pid='' cancelled='' warned='' terminal='' trained=0 code=0 pause_sec=0 answer='' module=$1
    shift
    # What a script says that was submitted before the module moved: SLURM keeps its old text.
    [ "$module" != actor_job ] || module=jobs.actor_job
    # Before what was given: there the user's own word comes later, and holds.
    case $module in
    train_*) [ -z "${CLUSTER_RL_ROM:-}" ] || set -- --rom "$CLUSTER_RL_ROM" "$@" ;;
    esac
    if [ -n "$seeds_of" ]; then
        set -- "$@" --run-name "$seeds_of-s$SLURM_ARRAY_TASK_ID"
        case $module in train_*) set -- --base_seed "$SLURM_ARRAY_TASK_ID" "$@" ;; esac
        echo "task $SLURM_ARRAY_TASK_ID of array $SLURM_ARRAY_JOB_ID: run $seeds_of-s$SLURM_ARRAY_TASK_ID"
    fi
    [ -z "${CLUSTER_RL_RUNS:-}" ] || set -- --runs "$CLUSTER_RL_RUNS" "$@"
    # These end before there is a job that another could follow.
    case " $* " in *' --dry-run '* | *' --dry_run '* | *' --help '* | *' -h '*) exec "$CLUSTER_RL_PYTHON" -m "cluster_rl.$module" "$@" ;; esac
    trap 'warned=1; [ -z "$pid" ] || kill -USR2 "$pid" 2>/dev/null' USR1 USR2
    trap 'cancelled=--cancelled; [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null' TERM INT
    [ ! -t 1 ] || terminal=1
    trap 'cancelled=--cancelled; [ -z "$terminal" ] || exec >/dev/null 2>&1
        [ -z "$pid" ] || kill -HUP "$pid" 2>/dev/null' HUP
    "$CLUSTER_RL_PYTHON" -m "cluster_rl.$module" "$@" &
    pid=$!
    # What came before there was a process to tell.
    [ -z "$warned" ] || kill -USR2 "$pid" 2>/dev/null
    [ -z "$cancelled" ] || kill -TERM "$pid" 2>/dev/null
    # A trapped signal ends `wait` before the process has ended; once it has, `wait` still knows its exit code.
    while kill -0 "$pid" 2>/dev/null; do
        wait "$pid"
    done
    wait "$pid"
    trained=$?
    pid=''
    # 138 and 140: the warning came while Python was starting, and ended it. Nothing was lost.
    case $warned$trained in 1138 | 1140) trained=85 ;; esac
    # shellcheck disable=SC2086  # no word if not cancelled
    "$CLUSTER_RL_PYTHON" -m cluster_rl.cluster after-job --module "$module" --exit-code "$trained" $cancelled -- "$@"
    code=$?
    if [ "$code" -ne 85 ]; then
        exit "$code"
    fi
    # SLURM starts batch scripts, and nothing else, as slurm_script.
    if [ -z "${SLURM_JOB_ID:-}" ] || [ "$(basename "$0")" != slurm_script ]; then
        echo "nothing starts again by itself here; type the same command to go on"
        exit "$trained"
    fi
    if [ "${CLUSTER_RL_CHAIN:-yes}" = no ]; then
        echo "one job was asked for; submit the same again to go on, or with --chain"
        [ "$trained" -ne 85 ] || exit 0
        exit "$trained"
    fi
    if ! command -v scontrol >/dev/null; then
        echo "no scontrol on this job's PATH ($PATH), so it cannot go back into the queue; submit it again" >&2
        exit "$trained"
    fi
    echo "job $job_id goes back into the queue, and then goes on with the run"
    # SLURM's controller may be away for a moment; the warning has left minutes.
    for pause_sec in 5 15 40 60 0; do
        # Requeueing ends this script, and scontrol with it; so does scancel, after which nothing may start again.
        [ -z "$cancelled" ] || exit 0
        # What a user sets for calls of scontrol is not meant for this one.
        if answer=$(unset "${!SCONTROL_@}" && exec scontrol requeue "$job_id" 2>&1); then
            echo "$answer"
            exit 0
        fi
        echo "$answer" >&2
        case $answer in *disabled*) break ;; esac # submitted with --no-requeue: it will never be allowed
        sleep "$pause_sec" &
        wait $!
    done
    [ -z "$cancelled" ] || exit 0
    echo "SLURM has not requeued this job; submit it again" >&2
    exit "$trained"
}
