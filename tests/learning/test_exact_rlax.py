"""Agreement with a published library: rlax (DeepMind), wherever it computes the same quantity.

`rlax_table.json` holds its results, so that no test needs JAX; `make_rlax_table.py` made it. Tolerance 1e-5.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import make_rlax_table
import numpy as np
import pytest
import torch
from torch import Tensor

from cluster_rl.config import ReturnCut
from cluster_rl.learning import losses, targets

TABLE = json.loads(Path(__file__).with_name("rlax_table.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-5


def test_value_transform() -> None:
    x = torch.tensor([case["x"] for case in TABLE["transform"]])
    scaled = torch.tensor([case["h"] for case in TABLE["transform"]])
    torch.testing.assert_close(targets.h(x), scaled, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(targets.h_inv(scaled), x, rtol=TOLERANCE, atol=TOLERANCE)


def padded(rows: Tensor, count: int) -> Tensor:
    """Unused rows behind the recorded ones, with what must not be read."""
    filler = torch.full((count, *rows.shape[1:]), float("nan"))
    return torch.cat([rows, filler])


@pytest.mark.parametrize("case", TABLE["n_step"], ids=lambda c: f"n{c['n']}-h{c['rescaling']}-end{c['terminated']}")
def test_n_step_double_q_learning(case: dict[str, Any]) -> None:
    """rlax is scalar, so each action has one quantile. Its tail shrinks as a truncated segment's does here."""
    online, target = (torch.tensor(case[name]).view(-1, 1, 4, 1) for name in ("online", "target"))
    last, n = len(online) - 1, case["n"]
    rewards = torch.tensor(case["rewards"]).view(-1, 1)
    masks = torch.ones(last + n, 1, 4, dtype=torch.bool)
    samples = targets.quantile_targets(
        padded(online, n - 1),
        padded(target, n - 1),
        masks,
        padded(rewards, n).unsqueeze(0),
        torch.tensor([last]),
        torch.tensor([case["terminated"]]),
        n_step=n,
        gammas=(case["gamma"],),
        weights=(1.0,),
        rescaling=case["rescaling"],
    )
    taken = targets.taken_quantiles(online[:last], torch.tensor(case["actions"]).view(-1, 1))
    # Without an expectation to take, the order of mean and inversion cannot matter.
    torch.testing.assert_close(
        (samples - taken)[:, 0, 0], torch.tensor(case["td_errors"]), rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("case", TABLE["watkins"], ids=lambda c: f"h{c['rescaling']}-end{c['terminated']}")
def test_watkins_q_lambda(case: dict[str, Any]) -> None:
    """With n as long as the recording, so that only the cuts and the end bootstrap."""
    values = torch.tensor(case["values"]).view(-1, 1, 4, 1)
    n = last = len(values) - 1
    rewards = torch.tensor(case["rewards"]).view(-1, 1)
    actions, greedy = torch.tensor([*case["actions"], *[0] * n]).view(-1, 1), torch.zeros(last + n, 1, dtype=torch.bool)
    greedy[: last + 1, 0] = torch.tensor(case["greedy"])
    masks = torch.ones(last + n, 1, 4, dtype=torch.bool)

    def errors(cut: ReturnCut) -> Tensor:
        quantiles = padded(values, n - 1)
        samples = targets.quantile_targets(
            *(
                quantiles,
                quantiles,
                masks,
                padded(rewards, n).unsqueeze(0),
                torch.tensor([last]),
                torch.tensor([case["terminated"]]),
            ),
            n_step=n,
            gammas=(case["gamma"],),
            weights=(1.0,),
            rescaling=case["rescaling"],
            goes_on=targets.return_goes_on(cut, greedy, actions, quantiles, masks, case["rescaling"], (1.0,)),
        )
        return (samples - targets.taken_quantiles(values[:last], actions[:last]))[:, 0, 0]

    expected = torch.tensor(case["td_errors"])
    torch.testing.assert_close(errors("watkins"), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(errors("none"), expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("case", TABLE["quantile_loss"], ids=lambda c: f"kappa{c['kappa']}")
def test_quantile_huber_loss(case: dict[str, Any]) -> None:
    """rlax does not divide by kappa, as the paper on IQN does."""
    predicted, samples = torch.tensor(case["predicted"]), torch.tensor(case["samples"])
    loss = losses.quantile_huber_loss(predicted, samples, case["kappa"]) * case["kappa"]
    torch.testing.assert_close(loss, torch.tensor(case["loss"]), rtol=TOLERANCE, atol=TOLERANCE)
    swapped = losses.quantile_huber_loss(samples, predicted, case["kappa"]) * case["kappa"]
    assert not torch.allclose(
        swapped, torch.tensor(case["loss"]), rtol=TOLERANCE, atol=TOLERANCE
    )  # the other axis would show


@pytest.mark.parametrize("case", TABLE["quantile_q"], ids=lambda c: f"discount{c['discount']}")
def test_quantile_q_learning(case: dict[str, Any]) -> None:
    """One step, from targets to loss: row 0 is the step, row 1 what it bootstraps from."""
    now, selector, target = (torch.tensor(case[name]).T for name in ("now", "selector", "target"))
    samples = targets.quantile_targets(
        torch.stack([now, selector]).unsqueeze(1),
        torch.stack([now, target]).unsqueeze(1),
        torch.ones(2, 1, 4, dtype=torch.bool),
        torch.tensor([[[case["reward"]], [0.0]]]),
        torch.tensor([1]),
        torch.tensor([case["discount"] == 0]),
        n_step=1,
        gammas=(0.9,),
        weights=(1.0,),
        rescaling=False,
    )
    taken = targets.taken_quantiles(now.view(1, 1, 4, -1), torch.tensor([[case["action"]]]))
    loss = losses.quantile_huber_loss(taken, samples, 1.0)[0, 0]
    torch.testing.assert_close(loss, torch.tensor(case["loss"]), rtol=TOLERANCE, atol=TOLERANCE)


def assert_near(made: Any, stored: Any, where: str) -> None:
    """Two trees of dicts and lists hold the same numbers."""
    if isinstance(made, dict):
        assert made.keys() == stored.keys(), where
        for key in made.keys() - {"library"}:
            assert_near(made[key], stored[key], f"{where}.{key}")
    elif made and isinstance(made, list) and isinstance(made[0], dict):
        for index, (one, other) in enumerate(zip(made, stored, strict=True)):
            assert_near(one, other, f"{where}[{index}]")
    else:
        np.testing.assert_allclose(made, stored, rtol=1e-5, atol=1e-5, err_msg=where)


def test_the_table_is_what_rlax_computes() -> None:
    pytest.importorskip("rlax", reason="needs rlax and JAX; without them the stored table is tested alone")
    assert_near(make_rlax_table.make_table(), TABLE, "table")
