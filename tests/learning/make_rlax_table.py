"""Makes rlax_table.json: numbers of DeepMind's rlax for what the learner computes too.

Run it in an environment with rlax (it brings JAX); the tests need only the table:

    python tests/learning/make_rlax_table.py tests/learning/rlax_table.json
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROWS, ACTIONS, QUANTILES = 10, 4, 5


def make_table() -> dict[str, Any]:
    """Inputs and rlax's results, as plain data. Raises `ImportError` without rlax."""
    import jax  # type: ignore[import-not-found]
    import jax.numpy as jnp  # type: ignore[import-not-found]
    import rlax  # type: ignore[import-not-found]

    # In float32 rlax's inverse of h, the textbook form, is off by up to 1e-4.
    jax.config.update("jax_enable_x64", True)

    rng = np.random.default_rng(0)

    def plain(array: Any) -> Any:
        values = np.asarray(array, np.float32)
        # Nine digits tell every float32 apart.
        return np.vectorize(lambda x: float(f"{x:.9g}"), otypes=[np.float64])(values).tolist()

    transform = []
    for x in (-900.0, -30.0, -1.0, -0.25, 0.0, 0.25, 1.0, 7.5, 30.0, 900.0):
        transform.append({"x": x, "h": plain(rlax.signed_hyperbolic(jnp.float64(x)))})

    # Scalar n-step double Q-learning: step t goes from row t to row t + 1, the last row only bootstraps.
    n_step = []
    for n in (1, 2, 3, 5):
        for rescaling in (False, True):
            for terminated in (False, True):
                online, target = (rng.normal(size=(ROWS, ACTIONS)).astype(np.float32) * 3 for _ in range(2))
                rewards = rng.normal(size=ROWS - 1).astype(np.float32) * 2
                actions = rng.integers(0, ACTIONS, ROWS - 1)
                discounts = np.full(ROWS - 1, 0.9)
                discounts[-1] *= not terminated
                errors = rlax.transformed_n_step_q_learning(
                    jnp.array(online[:-1], jnp.float64),
                    jnp.array(actions),
                    jnp.array(target[1:], jnp.float64),
                    jnp.array(online[1:].argmax(-1)),
                    jnp.array(rewards, jnp.float64),
                    jnp.array(discounts, jnp.float64),
                    n,
                    tx_pair=rlax.SIGNED_HYPERBOLIC_PAIR if rescaling else rlax.IDENTITY_PAIR,
                )
                n_step.append(
                    {
                        "n": n,
                        "rescaling": rescaling,
                        "terminated": terminated,
                        "gamma": 0.9,
                        "online": plain(online),
                        "target": plain(target),
                        "rewards": plain(rewards),
                        "actions": actions.tolist(),
                        "td_errors": plain(errors),
                    }
                )

    taus = (np.arange(QUANTILES, dtype=np.float32) + 0.5) / QUANTILES
    quantile_loss = []
    for kappa in (0.5, 1.0, 2.0):
        predicted, samples = (rng.normal(size=QUANTILES).astype(np.float32) * 2 for _ in range(2))
        loss = rlax.quantile_regression_loss(
            jnp.array(predicted, jnp.float64), jnp.array(taus, jnp.float64), jnp.array(samples, jnp.float64), kappa
        )
        quantile_loss.append(
            {"kappa": kappa, "predicted": plain(predicted), "samples": plain(samples), "loss": plain(loss)}
        )

    # One-step quantile double Q-learning, end to end; rlax has the axes [K, A].
    quantile_q = []
    for discount in (0.0, 0.9):
        now, selector, target = (rng.normal(size=(QUANTILES, ACTIONS)).astype(np.float32) for _ in range(3))
        reward, action = 0.75, 2
        loss = rlax.quantile_q_learning(
            jnp.array(now, jnp.float64),
            jnp.array(taus, jnp.float64),
            jnp.int32(action),
            jnp.float64(reward),
            jnp.float64(discount),
            jnp.array(selector, jnp.float64),
            jnp.array(target, jnp.float64),
            1.0,
        )
        quantile_q.append(
            {
                "discount": discount,
                "reward": reward,
                "action": action,
                "loss": plain(loss),
                "now": plain(now),
                "selector": plain(selector),
                "target": plain(target),
            }
        )

    # Q(lambda) over the whole recording with lambda 1 before greedy actions and 0 before others: Watkins's.
    watkins = []
    for rescaling in (False, True):
        for terminated in (False, True):
            values = rng.normal(size=(ROWS, ACTIONS)).astype(np.float32) * 3
            rewards = rng.normal(size=ROWS - 1).astype(np.float32) * 2
            actions, greedy = rng.integers(0, ACTIONS, ROWS - 1), rng.random(ROWS) < 0.6
            discounts = np.full(ROWS - 1, 0.9)
            discounts[-1] *= not terminated
            errors = rlax.transformed_q_lambda(
                jnp.array(values[:-1], jnp.float64),
                jnp.array(actions),
                jnp.array(rewards, jnp.float64),
                jnp.array(discounts, jnp.float64),
                jnp.array(values[1:], jnp.float64),
                jnp.array(greedy[1:], jnp.float64),
                tx_pair=rlax.SIGNED_HYPERBOLIC_PAIR if rescaling else rlax.IDENTITY_PAIR,
            )
            watkins.append(
                {
                    "rescaling": rescaling,
                    "terminated": terminated,
                    "gamma": 0.9,
                    "values": plain(values),
                    "rewards": plain(rewards),
                    "actions": actions.tolist(),
                    "greedy": greedy.tolist(),
                    "td_errors": plain(errors),
                }
            )

    return {
        "library": f"rlax {importlib.metadata.version('rlax')}",
        "transform": transform,
        "n_step": n_step,
        "quantile_loss": quantile_loss,
        "quantile_q": quantile_q,
        "watkins": watkins,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(make_table(), separators=(",", ":")) + "\n", encoding="utf-8")
