"""Tables and the plot, from the records alone; no torch.

In: records. Out: `table.md` and `scaling.png`: what the parts cost, measured beside predicted env steps a second, and
what the model says of runs that nobody has measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster_rl.config import Config
from cluster_rl.runs.atomic import write_atomic

from .model import MOST_TOGETHER, Job, Parts, Prediction, Setup, limits, predict, wire_limit
from .record import Record, Records, parts_of, point_setup, setup_of

GOAL_ERROR = 0.2
CLUSTER_JOBS, JOB_CPUS = 4, 8
ACTORS_PER_JOB = (6, 8)  # of the cluster's jobs: the learner's has it beside
MOST_ACTORS = 256
SWEEP = (1, 2, 4, 8, 16, 32, 64, 128, MOST_ACTORS)
CPU_RATIOS = (32.0, 8.0, 4.0, 1.0)
GPU_RATES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, math.inf)
"""Updates a second of a learner on a GPU: nobody has measured one. The last is for what else would limit a run."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_MEBI = 1e6

Links = dict[str, float]
"""`network_bytes_per_sec`, `network_rtt_sec` and `disk_bytes_per_sec`: assumed, not measured."""


def compared(records: Records, name: str, config: Config) -> list[tuple[Record, Prediction]]:
    """Each measured point with what the parts predict for it."""
    parts = parts_of(records, name)
    if parts is None:
        return []
    return [(point, predict(parts, point_setup(config, point))) for point in records.points(name)]


def missed(pairs: Sequence[tuple[Record, Prediction]]) -> list[Record]:
    """The points whose prediction is further off than the goal."""
    return [point for point, found in pairs if abs(ratio(point, found) - 1) > GOAL_ERROR]


def ratio(point: Record, found: Prediction) -> float:
    """Predicted over measured."""
    return found.env_steps_per_sec / point["env_steps_per_sec"]


def tables(records: Records, configs: dict[str, Config], links: Links, sync_sec: float | None) -> str:
    """Everything as Markdown."""
    lines = []
    for name, config in configs.items():
        parts = parts_of(records, name)
        if parts is None:
            continue
        lines += [
            f"## {name}",
            "",
            *_origin_lines(records.origin(name) or {}),
            *_parts_table(parts, records.find("ingest", name) or {}),
            "",
        ]
        pairs = compared(records, name, config)
        if pairs:
            lines += [*_points_table(pairs), ""]
        lines += [*_extrapolations(parts_with(parts, sync_sec), config, links), ""]
    return "\n".join(lines)


def _origin_lines(origin: Record) -> list[str]:
    """Nothing of records that do not say it."""
    if origin.get("asked_seconds") is None:
        return []
    keys = f" `{' '.join(origin['keys'])}`," if origin["keys"] else ""
    return [f"Measured with{keys} `--seconds {origin['asked_seconds']:g}`, commit {origin['commit'] or 'unknown'}.", ""]


def parts_with(parts: Parts, sync_sec: float | None) -> Parts:
    """On another disk."""
    return parts if sync_sec is None else dataclasses.replace(parts, sync_sec=sync_sec)


def _parts_table(parts: Parts, ingest: Record) -> list[str]:
    rows = {
        "actor, an env step: CPU; waits": f"{parts.step_cpu_sec * 1e3:.2f}; {parts.step_wait_sec * 1e3:.2f} ms",
        "learner's main thread, an update: CPU; waits": (
            "not measured"
            if math.isnan(parts.update_cpu_sec)
            else f"{parts.update_cpu_sec * 1e3:.1f}; {parts.update_wait_sec * 1e3:.1f} ms"
        ),
        "sampling thread, a batch: CPU": f"{parts.batch_cpu_sec * 1e3:.1f} ms",
        "wire thread, a sequence: CPU": f"{parts.sequence_cpu_sec * 1e6:.0f} µs",
        "ZeroMQ's thread, a sequence; a MB of parameters: CPU": (
            f"{parts.sequence_io_cpu_sec * 1e6:.0f} µs; {parts.params_io_sec_per_byte * 1e9:.2f} ms"
        ),
        "a sync of the replay log": f"{parts.sync_sec * 1e3:.1f} ms",
        "sequences a second that a learner took which did nothing else; its wire thread's limit by the above": (
            f"{ingest.get('sequences_per_sec', math.nan):,.0f}; "
            f"{wire_limit(parts, ingest.get('together', MOST_TOGETHER)) / parts.steps_per_sequence:,.0f}"
        ),
        "trained steps of a sequence; its bytes on the wire; on disk": (
            f"{parts.steps_per_sequence:.1f}; {parts.sequence_wire_bytes:,.0f}; {parts.sequence_disk_bytes:,.0f}"
        ),
        "parameters": f"{parts.params_bytes / _MEBI:.1f} MB",
    }
    return ["| part | cost |", "| --- | --- |", *(f"| {what} | {cost} |" for what, cost in rows.items())]


def _points_table(pairs: Sequence[tuple[Record, Prediction]]) -> list[str]:
    lines = [
        "| samples per insert | actors | measured env steps/s | predicted | predicted / measured | limit | actors: "
        "CPU; waiting for a core; for credit | learner's main thread busy | CPUs that others took; load |",
        f"|{' --- |' * 9}",
    ]
    for point, found in pairs:
        busy, queued = (point[name]["actor"] / point["actors"] for name in ("cpus", "queued"))
        cells = [
            f"{point['samples_per_insert']:g}",
            f"{point['actors']}",
            f"{point['env_steps_per_sec']:.0f}",
            f"{found.env_steps_per_sec:.0f}",
            f"{ratio(point, found):.2f}" + ("" if abs(ratio(point, found) - 1) <= GOAL_ERROR else " (off)"),
            found.binds,
            f"{100 * busy:.0f}; {100 * queued:.0f}; {100 * max(0.0, 1 - busy - queued):.0f} %",
            f"{point['learner_threads']['main']:.0%}".replace("%", " %"),
            f"{point['others_cpus']:.2f}; {point['load']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _extrapolations(parts: Parts, config: Config, links: Links) -> list[str]:
    """Where more actors do not help any more, and runs on `CLUSTER_JOBS` jobs and with 256 actors."""
    lines = ["| learner | samples per insert | saturates from actors | by | env steps/s then |", f"|{' --- |' * 5}"]
    for learner, rates in learners(parts, config):
        found = saturation(parts, config, links, rates)
        where = ["not with 256 actors", "", ""]
        if found is not None:
            where = [str(found[0]), found[1].binds, f"{found[1].env_steps_per_sec:,.0f}"]
        lines.append(f"| {learner} | {rates['samples_per_insert']:g} | {' | '.join(where)} |")
    lines += [
        "",
        "| learner | samples per insert | jobs x actors | env steps/s | limit | updates/s | next limit | wire thread "
        "busy | network in; out, MB/s | disk, MB/s | syncs/s, at most | new parameters every |",
        f"|{' --- |' * 12}",
    ]
    for learner, rates in learners(parts, config):
        for jobs in (*(same_jobs(CLUSTER_JOBS, one) for one in ACTORS_PER_JOB), spread(MOST_ACTORS)):
            setup = setup_of(config, jobs, **links, **rates)
            lines.append(f"| {learner} | {setup.samples_per_insert:g} | {_row(jobs, predict(parts, setup))} |")
    return lines


def saturation(parts: Parts, config: Config, links: Links, rates: dict[str, float]) -> tuple[int, Prediction] | None:
    """The least number of actors that something else than actors and their cores limits; None if none does."""
    for count in range(1, MOST_ACTORS + 1):
        found = predict(parts, setup_of(config, spread(count), **links, **rates))
        if found.binds not in ("actors", "cores"):
            return count, found
    return None


def learners(parts: Parts, config: Config) -> Iterable[tuple[str, dict[str, float]]]:
    """What is extrapolated to, in words and as arguments of `setup_of`: a CPU as measured, or a GPU of a given rate."""
    if not math.isnan(parts.update_cpu_sec):
        for samples in CPU_RATIOS:
            yield "CPU, one thread", {"samples_per_insert": samples}
        return
    late = config.samples_per_insert_at(config.target_total_steps)  # of most of a long run
    for rate in GPU_RATES:
        words = f"if a GPU makes {rate:g} updates/s" if math.isfinite(rate) else "if nobody waits for the GPU"
        yield words, {"samples_per_insert": late, "updates_per_sec": rate}


def same_jobs(count: int, actors: int) -> list[Job]:
    return [Job(actors, JOB_CPUS)] * count


def spread(actors: int) -> list[Job]:
    """As many as CPUs in each job, the last one with what is left."""
    counts = [JOB_CPUS] * (actors // JOB_CPUS) + [actors % JOB_CPUS] * bool(actors % JOB_CPUS)
    return [Job(count, JOB_CPUS) for count in counts]


def _row(jobs: Sequence[Job], found: Prediction) -> str:
    others = {name: limit for name, limit in found.limits.items() if limit > found.env_steps_per_sec * (1 + 1e-9)}
    following = min(others, key=lambda name: others[name])
    return " | ".join(
        [
            f"{len(jobs)} x {jobs[0].actors}",
            f"{found.env_steps_per_sec:,.0f}",
            found.binds,
            f"{found.updates_per_sec:.1f}",
            f"{following} at {others[following]:,.0f}",
            f"{found.wire_share:.1%}",
            f"{found.network_in_bytes_per_sec / _MEBI:.2f}; {found.network_out_bytes_per_sec / _MEBI:.1f}",
            f"{found.disk_bytes_per_sec / _MEBI:.2f}",
            f"{found.syncs_per_sec:.0f}",
            f"{found.params_every_sec:.1f} s",
        ]
    )


def write_report(
    records: Records, configs: dict[str, Config], links: Links, sync_sec: float | None, folder: Path
) -> str:
    """Writes `table.md` and `scaling.png`; returns the table."""
    text = tables(records, configs, links, sync_sec)
    write_atomic(folder / "table.md", text.encode())
    known = [(name, parts) for name in configs if (parts := parts_of(records, name)) is not None]
    figure = Figure(figsize=(5.2 * (1 + len(known)), 5.6), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(known), squeeze=False)[0]
    _draw_points(first, [pair for name, config in configs.items() for pair in compared(records, name, config)])
    for panel, (name, parts) in zip(others, known, strict=True):
        _draw_sweep(panel, name, parts_with(parts, sync_sec), configs[name], links)
    figure.savefig(folder / "scaling.png", dpi=110)
    return text


def _draw_points(panel: Axes, pairs: Sequence[tuple[Record, Prediction]]) -> None:
    for colour, samples in zip(_COLOURS, sorted({point["samples_per_insert"] for point, _ in pairs}), strict=False):
        own = [(point, found) for point, found in pairs if point["samples_per_insert"] == samples]
        actors = [point["actors"] for point, _ in own]
        predicted = [found.env_steps_per_sec for _, found in own]
        low, high = ([rate * (1 + side * GOAL_ERROR) for rate in predicted] for side in (-1, 1))
        panel.plot(actors, predicted, color=colour, label=f"predicted, {samples:g} samples per insert")
        panel.fill_between(actors, low, high, color=colour, alpha=0.12, linewidth=0)
        measured = [point["env_steps_per_sec"] for point, _ in own]
        panel.plot(actors, measured, "o", color=colour, label=f"measured, {samples:g}")
    panel.set(xlabel="actors on this machine", ylabel="env steps a second", title="Measured, and predicted +- 20 %")
    panel.set_ylim(bottom=0)
    panel.set_xticks(sorted({point["actors"] for point, _ in pairs}))
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")


def _draw_sweep(panel: Axes, name: str, parts: Parts, config: Config, links: Links) -> None:
    """Env steps a second by actors; grey what the actors, and each limit of the learner's node, allow by themselves."""
    setups: list[Setup] = []
    for colour, (words, rates) in zip(_COLOURS, learners(parts, config), strict=False):
        setups = [setup_of(config, spread(count), **links, **rates) for count in SWEEP]
        found = [predict(parts, setup) for setup in setups]
        label = words if "updates_per_sec" in rates else f"{words}, {rates['samples_per_insert']:g} samples per insert"
        panel.plot(SWEEP, [one.env_steps_per_sec for one in found], "-", color=colour, label=label)
    for style, limit in (("-", "actors"), ((0, (1, 3)), "credit"), (":", "wire"), ("--", "network"), ("-.", "disk")):
        heights = [limits(parts, setup)[limit] for setup in setups]
        panel.plot(SWEEP, heights, linestyle=style, color="#888888", linewidth=1, label=f"limit: {limit}", zorder=1)
    panel.set(xscale="log", yscale="log", ylabel="env steps a second", title=f"Extrapolated, preset {name}")
    panel.set(xlabel=f"actors, {JOB_CPUS} in each job of {JOB_CPUS} CPUs, learner in the first")
    panel.set_xticks(SWEEP, [str(count) for count in SWEEP])
    panel.grid(alpha=0.3)
    panel.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
