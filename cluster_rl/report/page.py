"""One HTML page that says all that the files of some runs tell, and needs nothing but itself.

`python -m cluster_rl.report` makes it. In: `RunFacts` of one run or several. Out: a whole HTML document. Texts that
come from files are escaped by the template; no data is in the script, and the page's own policy lets no other script
run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cluster_rl import __version__
from cluster_rl.report.bars import count_words
from cluster_rl.report.charts import PALETTE, Chart, draw
from cluster_rl.report.curves import printable
from cluster_rl.report.findings import findings_of
from cluster_rl.report.glance import glance_table
from cluster_rl.report.overlay import SIZE
from cluster_rl.report.pictures import MOST_QUESTS, episode_charts, learner_charts, milestone_charts, quest_chart
from cluster_rl.report.replay_content import replay_content
from cluster_rl.report.rivals import RivalFacts
from cluster_rl.report.run_facts import RunFacts
from cluster_rl.report.tables import (
    EPISODE_COLUMNS,
    changed_keys,
    differing_keys,
    episode_lines,
    facts_table,
    job_lines,
    milestone_table,
    rival_lines,
    value_words,
)
from cluster_rl.report.visits import LOGS_A_SLICE, world_map

MOST_EPISODES: Final = 400
"""Rows of episodes on a page, all runs together; each run has an equal part."""
MOST_PROBLEMS: Final = 10
"""Lines on logs that the map could not read."""
BAND_WORDS: Final = (
    "A line of several runs is their median, its band from the least to the most of them. Where one ends, the line "
    "goes on with those that are left."
)
RIVAL_WORDS: Final = (
    "Rivals are other agents' trainings, from their records alone. They are drawn by env steps: hours on their machine "
    "are no measure of ours. Returns are those of training episodes, with whatever an agent does to explore."
)
LIVE_PART: Final = ("film", "What it plays")
PARTS: Final = (
    ("glance", "At a glance"),
    ("findings", "What looks wrong"),
    ("run", "What it is"),
    ("jobs", "Jobs"),
    ("milestones", "Milestones"),
    ("returns", "Episodes over training"),
    ("quests", "Quests"),
    ("learner", "Replay, speed and learner"),
    ("map", "Where it has been"),
    ("episodes", "Episodes"),
)


def page_of(runs: Sequence[RunFacts], out: Path, live: int = 0, rivals: Sequence[RivalFacts] = ()) -> str:
    """The page, as it will lie at `out`: links to videos are relative to it. With `live`, the number of the page, it
    asks whoever serves it for newer ones. Curves of `rivals` lie beside the runs'. Raises `StorageError`."""
    environment = _environment()
    css, js = environment.get_template("page.css").render(), _script(bool(live))
    pictures = _Pictures()
    return environment.get_template("page.html.j2").render(
        title=f"Run {runs[0].name}" if len(runs) == 1 else f"Runs {', '.join(run.name for run in runs)}",
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=__version__,
        css=Markup(css),
        js=Markup(js),
        policy=page_policy(bool(live)),
        live=live,
        film_size=SIZE,
        parts=(LIVE_PART, *PARTS) if live else PARTS,
        palette=PALETTE,
        band_words=BAND_WORDS,
        most_problems=MOST_PROBLEMS,
        count_words=count_words,
        glance=glance_table(runs, out),
        logs_a_slice=LOGS_A_SLICE,
        episode_columns=EPISODE_COLUMNS,
        facts=facts_table(runs),
        differing=differing_keys([run.config for run in runs]) if len(runs) > 1 else [],
        rivals=rival_lines(runs, rivals),
        rival_words=RIVAL_WORDS,
        milestones=milestone_table(runs, rivals),
        milestone_pictures=pictures.of(milestone_charts(runs, rivals)),
        return_pictures=pictures.of(episode_charts(runs, rivals)),
        learner_pictures=pictures.of(learner_charts(runs)),
        runs=[_run(run, out, pictures, MOST_EPISODES // len(runs)) for run in runs],
    )


def _shown(value: Any) -> Any:
    """What the template writes of a value: names come from files, and may have any characters."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def page_policy(live: bool = False) -> str:
    """The page's Content-Security-Policy: its own script and no other, pictures that it holds, and no network; where it
    is `live`, that of whoever serves it."""
    digest = base64.b64encode(hashlib.sha256(_script(live).encode()).digest()).decode()
    parts = [
        *("default-src 'none'", f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", "img-src data:"),
        *("base-uri 'none'", "form-action 'none'"),
    ]
    return "; ".join(parts + ["connect-src 'self'", "media-src 'self'"] * live)


@cache
def _script(live: bool) -> str:
    """All that runs in the page."""
    names = ("page.js", "live.js") if live else ("page.js",)
    return "\n".join(_environment().get_template(name).render() for name in names)


@cache
def _environment() -> Environment:
    """It keeps the templates that it has compiled."""
    return Environment(
        loader=PackageLoader("cluster_rl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _Pictures:
    """Draws charts, each with ids of its own."""

    def __init__(self) -> None:
        self._drawn = 0

    def of(self, charts: Sequence[Chart]) -> list[dict[str, Any]]:
        """What the template shows of each chart that has any points."""
        found = []
        for chart in charts:
            self._drawn += 1
            svg = draw(chart, f"chart-{self._drawn}")
            if svg:
                found.append({"title": chart.title, "svg": Markup(svg), "words": chart.words, "bands": chart.has_bands})
        return found


def _run(run: RunFacts, out: Path, pictures: _Pictures, most_episodes: int) -> dict[str, Any]:
    """What the template shows of one run."""
    newest = run.quests[-1].quests if run.quests else {}
    lines = episode_lines(run, out, most_episodes)
    filters = list(dict.fromkeys(name for line in lines for name in line.milestones))
    left_out = len(newest) - MOST_QUESTS
    first = f"The {MOST_QUESTS} that matter most now are drawn; the table has all. " if left_out > 0 else ""
    return {
        "name": run.name,
        "findings": findings_of(run),
        "config": [(key, value_words(value)) for key, value in run.config.items()],
        "changed": changed_keys(run.config),
        "jobs": job_lines(run),
        "quests": list(newest.items()),
        "quest_picture": next(iter(pictures.of([quest_chart(run)])), None),
        "quest_note": f"{first}What the words mean: docs/metrics.md.",
        "map": world_map(run),
        "replay": replay_content(run),
        "episodes": lines,
        "episode_note": _episode_note(len(lines), run.episodes.count),
        "filters": filters,
        "reached": [" ".join(str(filters.index(name)) for name in line.milestones) for line in lines],
    }


def _episode_note(shown: int, count: int) -> str:
    if shown == count:
        return f"{'The only episode' if count == 1 else f'All {count:,} episodes'} of the run."
    return (
        f"{shown:,} of the run's {count_words(count, 'episode')}: the newest, and of the others those with the highest "
        "returns, the first to reach a milestone, and with a video, as far as there is room."
    )
