#!/usr/bin/env bash
# Makes the environment that the job scripts use, in your home directory: conda where there is one, else venv.
# usage: scripts/env_setup.sh [--venv | --conda | --user] [--torch cpu|cuda] [--prefix DIR] [--notebook]
#   --user      into the Python that runs here (pip install --user), for a notebook server that you did not start
#   --torch     which build of PyTorch: cuda is some 5 GB, cpu 0.7 GB (default: cuda where nvidia-smi is found)
#   --prefix    where the environment goes (default: ~/.conda/envs/cluster_rl or ~/.venvs/cluster_rl)
#   --notebook  JupyterLab too, and a kernel "cluster_rl" for servers of others
# Typed again it changes nothing, or mends what is missing. At the end it writes the Python into slurm/settings.env, if
# none stands there, and says how large everything is.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/python_env.sh
source "$ROOT/scripts/python_env.sh"

fail() {
    echo "error: $*" >&2
    exit 2
}

mode='' torch='' prefix='' extras=''
while [ $# -gt 0 ]; do
    case $1 in
    --torch | --prefix) [ $# -gt 1 ] || fail "$1: a value is missing" ;;
    esac
    case $1 in
    --venv | --conda | --user) mode=${1#--} ;;
    --torch) torch=${2:-} && shift ;;
    --torch=*) torch=${1#*=} ;;
    --prefix) prefix=${2:-} && shift ;;
    --prefix=*) prefix=${1#*=} ;;
    --notebook) extras='[notebook]' ;;
    -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    *) fail "$1: not an option of env_setup.sh; --help lists them" ;;
    esac
    shift
done
asked=$torch
if [ -z "$torch" ]; then
    if command -v nvidia-smi >/dev/null; then torch=cuda; else torch=cpu; fi
fi
[ -z "$prefix" ] || prefix=$(realpath -m "$prefix")
case $prefix in *[[:space:]]*) fail "--prefix $prefix: a path without spaces, please" ;; esac
case $torch in cpu | cuda) ;; *) fail "--torch $torch: write cpu or cuda" ;; esac

conda=''
for program in mamba conda micromamba; do
    if command -v "$program" >/dev/null; then
        conda=$program
        break
    fi
done
if [ -z "$mode" ]; then
    if [ -n "$conda" ]; then mode=conda; else mode=venv; fi
fi

# The build for the CPU lies on an index of its own; its version 2.13.0+cpu goes before PyPI's 2.13.0.
if [ "$torch" = cpu ]; then
    export PIP_EXTRA_INDEX_URL=${CLUSTER_RL_TORCH_INDEX-https://download.pytorch.org/whl/cpu}
fi
# What pip downloads is not kept: a home directory has a quota.
export PIP_NO_CACHE_DIR=1

case $mode in
user)
    CLUSTER_RL_PYTHON=$(command -v python3) || fail "no python3 found"
    [ -z "$prefix" ] || fail "--prefix: pip install --user has its own place"
    export PIP_USER=1
    ;;
conda)
    [ -n "$conda" ] || fail "no conda, mamba or micromamba found; load your cluster's module, or give --venv"
    # On the same volume, so that packages are linked into the environment, not copied.
    export CONDA_ENVS_DIRS=${CONDA_ENVS_DIRS:-$HOME/.conda/envs} CONDA_PKGS_DIRS=${CONDA_PKGS_DIRS:-$HOME/.conda/pkgs}
    prefix=${prefix:-${CONDA_ENVS_DIRS%%:*}/cluster_rl}
    CLUSTER_RL_PYTHON=$prefix/bin/python
    [ -x "$CLUSTER_RL_PYTHON" ] || run_long "$conda create" "$conda" create --yes --prefix "$prefix" -c conda-forge python=3.11 pip
    ;;
venv)
    prefix=${prefix:-$HOME/.venvs/cluster_rl}
    CLUSTER_RL_PYTHON=$prefix/bin/python
    if [ ! -x "$CLUSTER_RL_PYTHON" ]; then
        find_python
        echo "Making a virtual environment in $prefix"
        "$BASE_PYTHON" -m venv "$prefix" || fail "'$BASE_PYTHON -m venv' failed; load a newer Python, or use conda"
    fi
    ;;
esac
prepare_python "$extras" torch
there=$("$PYTHON" -c 'import torch; print("cuda" if torch.version.cuda else "cpu")')
if [ -n "$asked" ] && [ "$asked" != "$there" ]; then
    fail "PyTorch for $there is installed, not for $asked; delete ${prefix:-it} and type this again, or give another --prefix"
fi
if [ -n "$extras" ]; then
    "$PYTHON" -m ipykernel install --user --name cluster_rl --display-name cluster_rl >/dev/null
fi

settings=$ROOT/slurm/settings.env
if [ "$mode" != user ] && grep -q '^CLUSTER_RL_PYTHON=$' "$settings"; then
    sed -i "s|^CLUSTER_RL_PYTHON=\$|CLUSTER_RL_PYTHON=$CLUSTER_RL_PYTHON|" "$settings"
    echo "slurm/settings.env now names this Python"
elif [ "$mode" != user ] && ! grep -qF "CLUSTER_RL_PYTHON=$CLUSTER_RL_PYTHON" "$settings"; then
    echo "slurm/settings.env names another Python, which stays: $(grep '^CLUSTER_RL_PYTHON=' "$settings")"
fi
"$PYTHON" -c 'import sys, torch; print(f"Python {sys.version.split()[0]}, PyTorch {torch.__version__}: {sys.executable}")'
case $mode in
conda) echo "To type python -m cluster_rl...: $conda activate $prefix, or: export PATH=$prefix/bin:\$PATH" ;;
venv) echo "To type python -m cluster_rl...: source $prefix/bin/activate" ;;
esac
if [ "$mode" != user ]; then
    echo "The environment: $(du -sh "$prefix" | cut -f1), $(find "$prefix" -type f | wc -l) files"
fi
echo "Your home's disk: $(df -h --output=avail "$HOME" | tail -n 1 | tr -d ' ') free"
if command -v quota >/dev/null; then
    quota -s || echo "Over quota, or quota has failed${conda:+; $conda clean --all frees what conda keeps}"
else
    echo "No quota command here: ask your cluster how much you may keep"
fi
