"""Job scripts as people write them, and what sbatch takes from them.

The unit tests hold our reading against the numbers here, the tests on a real SLURM hold them against SLURM's own.
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """`lines` stand below the script's first line; amounts are the whole job's, minutes those that have begun."""

    lines: str
    cpus: int
    minutes: int
    memory_gb: float = 0
    gpus: int = 0
    gpumem_gb: float = 0
    options: str = ""
    variables: str = ""


CASES = [
    Case("#SBATCH --time=04:00:00   # max", 1, 240),
    Case("#SBATCH\t--time=5 -c 2#comment\t-n 3", 2, 5),
    Case("#SBATCH --job-name='a # b' -c 2 -t 0:30:00", 2, 30),
    Case('#SBATCH --job-name="a \\" -c 3" -c 2 -t 7', 2, 7),
    Case("#SBATCH --job-name='it\\'s' -c 2 -t 7", 2, 7),
    Case("\n# words\n   # more\n #SBATCH -c 7\n#SBATCH -c2 -t60\n##SBATCH -c 3\nset -u\n#SBATCH -c 4", 2, 60),
    Case("#SBATCH -c\n#SBATCH 2 --time\n#SBATCH 9", 2, 9),
    Case("#SBATCH --cpus-per-t=2 --time=9 --mem-per-c=1G", 2, 9, memory_gb=2),
    Case("#SBATCH -Hc 2 -t 9", 2, 9),
    Case("#SBATCH -N 2 -c 3 --mem=1G -t 9", 6, 9, memory_gb=2),
    Case("#SBATCH -N2 --ntasks-per-node=2 -t 9 --mem-per-cpu=512", 4, 9, memory_gb=2),
    Case("#SBATCH --nodes=2 --ntasks-per-node=2 -n 3 -t 9", 3, 9),
    Case("#SBATCH -N 1-3 -c 2 -t 1:30", 2, 2),
    Case("#SBATCH --ntasks 1 -N 2 -c 2 -t 9", 2, 9),
    Case("#SBATCH --ntasks=2 --cpus-per-task=2 --mem-per-cpu=1GB -t 0-1", 4, 60, memory_gb=4),
    Case("#SBATCH -n 2 --gpus-per-task=1 -t 9 --mem=2g", 2, 9, gpus=2, memory_gb=2),
    Case("#SBATCH -N 2 --gres=gpu:1,gpumem:2G -t 9", 2, 9, gpus=2, gpumem_gb=4),
    Case("#SBATCH --gres=gpu -t 9 -c 2", 2, 9, gpus=1),
    Case("#SBATCH -G 2 -N 2 --gpus-per-node=1 -t 9 --mem-per-gpu=1G", 2, 9, gpus=2, memory_gb=2),
    Case("#SBATCH --gpus=0 --gres=gpu:0 -t 9", 1, 9),
    Case("#SBATCH -G 2 --ntasks-per-gpu=2 -t 9", 4, 9, gpus=2),
    Case("#SBATCH -t 7 -c 2 --mem=1G", 3, 9, memory_gb=1, options="-t 9 -c3"),
    Case("#SBATCH -t 7 -c 2", 2, 20, variables="SBATCH_TIMELIMIT=20"),
    Case("#SBATCH -t 7 -c 2", 2, 9, options="--time 9", variables="SBATCH_TIMELIMIT=20 SBATCH_CPUS_PER_TASK=5"),
    Case("#SBATCH -t 7 --gres=gpumem:2G", 1, 7, gpus=1, variables="SBATCH_GRES=gpu:1 SBATCH_GPUS=1"),
    Case("#SBATCH -t 7 --mem-per-cpu=1G -c 2", 2, 7, memory_gb=2, variables="SBATCH_MEM_PER_NODE=3G"),
    Case("#SBATCH -t 7 --mem=1G", 1, 7, memory_gb=3, variables="SBATCH_MEM_PER_NODE=3G"),
    # A variable takes the place of the script's own option, and gives way to another way to ask.
    Case("#SBATCH -t 7 --mem=1G -c 2", 2, 7, 4, options="--mem-per-cpu=2G", variables="SBATCH_MEM_PER_NODE=3G"),
    Case("#SBATCH -t 7 -c 2", 2, 7, 2, options="--mem=2G", variables="SBATCH_MEM_PER_NODE=3G SBATCH_MEM_PER_CPU=4G"),
]
