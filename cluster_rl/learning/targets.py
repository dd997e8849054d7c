"""Value rescaling, expected values and n-step double-Q targets, as pure functions of float32 tensors.

The learner computes its targets with them; the actors compute expected values to act by and initial priorities. Inputs
and outputs lie on one device; nothing here keeps state. Everything must be called in float32 outside autocast: the
inverse of the rescaling loses most of its digits in half precision.

Names: T trained positions, n the n-step length, R = T + n recorded rows (trained positions and tail), N sequences,
A actions, S streams of reward, K quantiles of each. A head's outputs [..., S K] are the quantiles of one stream after
those of another. "h-space" is where they live when value rescaling is on.

Streams: what curiosity pays comes with every step and soon, what the game pays seldom and late. As one value, the noise
of the second hides the first. So each may have a discount and quantiles of its own, and the agent acts by the weighted
sum of both values (Badia et al. 2020a, 2020b). `Config.stream_gammas` and `stream_weights` say what there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cluster_rl.config import ReturnCut

RESCALING_EPSILON = 1e-3
SOFT_WATKINS_TOLERANCE = 0.01
"""Kapturowski et al. 2022."""


def h(x: Tensor) -> Tensor:
    """The value rescaling of Pohlen et al. 2018, sign(x)(sqrt(|x| + 1) - 1) + eps x, element-wise.

    Written without the difference of nearly equal numbers, so that small values keep their digits.
    """
    assert x.dtype == torch.float32, x.dtype
    return x / (torch.sqrt(x.abs() + 1.0) + 1.0) + RESCALING_EPSILON * x


def h_inv(x: Tensor) -> Tensor:
    """The inverse of `h`, element-wise, in a form accurate in float32 from tiny to huge values.

    With |x| = h(y), d = sqrt(y + 1) - 1 solves eps d^2 + (1 + 2 eps) d = |x|; its positive root is taken in the
    rationalised form, and y = d (d + 2). The textbook form subtracts nearly equal numbers and divides by eps.
    """
    assert x.dtype == torch.float32, x.dtype
    linear = 1.0 + 2.0 * RESCALING_EPSILON
    magnitude = x.abs()
    root = 2.0 * magnitude / (torch.sqrt(linear * linear + 4.0 * RESCALING_EPSILON * magnitude) + linear)
    return torch.sign(x) * root * (root + 2.0)


def stream_rewards(
    rewards: Tensor, visits: Tensor, curiosity: Tensor | None, novelty: float, weights: Sequence[float]
) -> Tensor:
    """Rewards of each stream, in units of its own: [R, N] -> [S, R, N].

    Args:
        rewards: [R, N] float32, as the environment paid them, `novelty` / visits for a map tile entered among them.
        visits: [R, N] uint8, of the tile that the step entered, in the episode; 0: it entered none. Beyond
            `sequences.MAX_VISITS` what was paid stays with the rewards of the game: it is next to nothing.
        curiosity: [R, N] float32, what RND pays on top; None: nothing.
        novelty: the config's `rewards.novelty`.
        weights: of the streams; with one alone, all is one sum.
    """
    if len(weights) == 1:
        return (rewards if curiosity is None else rewards + curiosity).unsqueeze(0)
    tiles = torch.where(visits > 0, novelty / visits, 0.0)
    intrinsic = tiles if curiosity is None else tiles + curiosity
    return torch.stack([rewards - tiles, intrinsic / weights[1]])


def stream_values(quantiles: Tensor, rescaling: bool, streams: int) -> Tensor:
    """Expected returns of each stream, in units of its own: outputs of a head [..., S K] -> [..., S].

    The mean is taken after the inversion: in h-space it ranks risky actions wrongly, because h of a mean is not the
    mean of h.
    """
    returns = h_inv(quantiles) if rescaling else quantiles
    return torch.stack([part.mean(-1) for part in returns.chunk(streams, -1)], -1)


def expected_values(quantiles: Tensor, rescaling: bool, weights: Sequence[float]) -> Tensor:
    """Q values in reward units, by which actions are chosen, from a head's outputs [..., S K] and the streams' weights:
    the weighted sum of their expected returns, [...]."""
    return weighted_sum(stream_values(quantiles, rescaling, len(weights)), weights)


def weighted_sum(by_stream: Tensor, weights: Sequence[float]) -> Tensor:
    """What streams are worth together: [..., S], one number for each -> [...]."""
    total = weights[0] * by_stream[..., 0]
    for stream, weight in enumerate(weights[1:], 1):
        total = total + weight * by_stream[..., stream]
    return total


def greedy_actions(values: Tensor, masks: Tensor) -> Tensor:
    """Index of the best valid action: values [..., A] float, masks [..., A] bool -> [...] int64."""
    assert values.shape == masks.shape, (values.shape, masks.shape)
    return values.masked_fill(~masks, float("-inf")).argmax(-1)


def return_goes_on(
    cut: ReturnCut,
    greedy: Tensor,
    actions: Tensor,
    quantiles: Tensor,
    masks: Tensor,
    rescaling: bool,
    weights: Sequence[float],
) -> Tensor | None:
    """Whether a return may go on over the action of each row, [R, N] bool; None: over every one.

    What a random action earns is not what the greedy policy would, whose value is learned: a return that goes on over
    it is biased. `watkins` ends returns before actions that were not the actor's best (Watkins 1989, Q(lambda) with
    lambda 1), `soft_watkins` before those that are not nearly the best by today's values (Kapturowski et al. 2022).

    Args:
        greedy: [R, N] bool, whether the action was the best valid one when it was taken.
        actions: [R, N] int64.
        quantiles: [R, N, A, S K], by which an action is nearly the best one (`soft_watkins`): its expected value, in
            reward units, is less than the best valid one's by at most `SOFT_WATKINS_TOLERANCE` of that one's size.
        masks: [R, N, A] bool, the valid actions.
        weights: of the streams.
    """
    if cut == "none":
        return None
    if cut == "watkins":
        return greedy
    by_stream = _best_and_taken(quantiles, actions, masks, rescaling, weights)
    best, taken = (weighted_sum(values, weights) for values in by_stream)  # [R, N]
    return taken >= best - SOFT_WATKINS_TOLERANCE * best.abs()


def advantage_penalties(
    alpha: float, quantiles: Tensor, actions: Tensor, masks: Tensor, rescaling: bool, weights: Sequence[float]
) -> Tensor | None:
    """What is taken off the target of each row's action, [S, R, N] in units of each stream; None: nothing.

    Advantage learning (Baird 1999; Bellemare et al. 2016): `alpha` times what the action falls short of the best valid
    one, max Q - Q. The best action and its value stay as they are, all others come to lie 1 / (1 - alpha) times as far
    below it: errors of a network that are small beside values, but not beside the difference that one step makes, no
    longer decide which action is greedy. The best is that of all streams together: in one of them it may be the worse.

    Args:
        quantiles: [R, N, A, S K], by which actions are valued, by the network that values the bootstrap action.
        actions: [R, N] int64, those taken.
        masks: [R, N, A] bool, the valid actions; none valid on unused rows, which get finite filler.
        weights: of the streams.
    """
    if alpha == 0:
        return None
    best, taken = _best_and_taken(quantiles, actions, masks, rescaling, weights)
    return alpha * (best - taken).movedim(-1, 0)


@torch.no_grad()
def _best_and_taken(
    quantiles: Tensor, actions: Tensor, masks: Tensor, rescaling: bool, weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Values by stream of the valid action that is best by their weighted sum, and of the one taken: [R, N, S] each.

    The inputs are those of `return_goes_on` and `advantage_penalties`. Where none is valid, the best is any action.
    """
    by_stream = stream_values(quantiles, rescaling, len(weights))  # [R, N, A, S]
    best = greedy_actions(weighted_sum(by_stream, weights), masks)  # [R, N]
    return taken_quantiles(by_stream, best), taken_quantiles(by_stream, actions)


def bootstrap_steps(last: Tensor, unroll_length: int, n_step: int, goes_on: Tensor | None = None) -> Tensor:
    """Steps m between each trained position t and the one it bootstraps from: min(n, last - t), at least 0.

    `last` [N] int64 is the last recorded row. With `goes_on` [R, N] bool (`return_goes_on`), no further than to the
    first row after t where it is False; the action at t itself is the one whose value is learned, whatever it was.
    Returns [T, N] int64. It is 0 on padding behind `last` only.
    """
    positions = torch.arange(unroll_length, device=last.device).unsqueeze(1)  # [T, 1]
    steps = (last.unsqueeze(0) - positions).clamp(min=0, max=n_step)  # [T, N]
    if goes_on is None:
        return steps
    after = goes_on.unfold(0, n_step, 1)[:unroll_length, :, 1:]  # [T, N, n - 1]: of the rows t + 1 .. t + n - 1
    return torch.minimum(steps, 1 + after.long().cumprod(-1).sum(-1))  # [T, N]


def n_step_returns(rewards: Tensor, steps: Tensor, n_step: int, gamma: float) -> Tensor:
    """Discounted sums of the next m rewards: rewards [R, N], steps m [T, N] -> [T, N].

    Rewards at and behind the last recorded row are never read, whatever they hold.
    """
    unroll_length = steps.shape[0]
    assert rewards.shape == (unroll_length + n_step, steps.shape[1]), (rewards.shape, steps.shape)
    ahead = rewards.unfold(0, n_step, 1)[:unroll_length]  # [T, N, n]
    offsets = torch.arange(n_step, device=rewards.device)
    counted = torch.where(offsets < steps.unsqueeze(-1), ahead, torch.zeros_like(ahead))
    return (counted * gamma ** offsets.to(rewards.dtype)).sum(-1)  # [T, N]


def quantile_targets(
    online: Tensor,
    target: Tensor,
    masks: Tensor,
    rewards: Tensor,
    last: Tensor,
    terminated: Tensor,
    *,
    n_step: int,
    gammas: Sequence[float],
    weights: Sequence[float],
    rescaling: bool,
    goes_on: Tensor | None = None,
    penalties: Tensor | None = None,
) -> Tensor:
    """n-step double-Q target samples for every trained position, without gradient.

    All streams bootstrap from the action that is best by their weighted sum, as it is what the agent acts by.

    Args:
        online: [R, N, A, S K] quantiles that choose the bootstrap action (by expected value, among valid actions).
        target: [R, N, A, S K] quantiles that value it.
        masks: [R, N, A] bool, the valid actions recorded at each row.
        rewards: [S, R, N] reward of the step taken at each row, see `stream_rewards`.
        last: [N] int64, the last recorded row of each sequence.
        terminated: [N] bool, whether the segment ended at `last` by termination: then `last` is worth nothing. A
            truncated segment bootstraps from its final observation like any other.
        goes_on: [R, N] bool, see `return_goes_on`: a return ends, and bootstraps, at the first row after its own where
            it is False. None: nowhere before n steps.
        gammas, weights: discount of each stream, and what its unit is worth when actions are chosen.
        penalties: [S, R, N], see `advantage_penalties`; None: none.

    Returns:
        [T, N, S K] target samples (h-space if `rescaling`). Rows behind the trained length hold finite filler if their
        inputs are finite; the caller masks them.
    """
    rows, batch_size, num_actions, outputs = online.shape
    unroll_length, streams = rows - n_step, len(gammas)
    assert target.shape == online.shape, (target.shape, online.shape)
    assert masks.shape == (rows, batch_size, num_actions), masks.shape
    assert rewards.shape == (streams, rows, batch_size), (rewards.shape, gammas)
    assert goes_on is None or goes_on.shape == rewards.shape[1:], (goes_on, rewards.shape)
    assert penalties is None or penalties.shape == rewards.shape, (penalties, rewards.shape)
    assert last.shape == terminated.shape == (batch_size,), (last.shape, terminated.shape)
    with torch.no_grad():
        best = greedy_actions(expected_values(online, rescaling, weights), masks)  # [R, N]
        values = taken_quantiles(target, best)  # [R, N, S K]

        steps = bootstrap_steps(last, unroll_length, n_step, goes_on)  # [T, N]
        bootstrap_row = torch.arange(unroll_length, device=last.device).unsqueeze(1) + steps  # [T, N]
        values = values.gather(0, bootstrap_row.unsqueeze(-1).expand(-1, -1, outputs))  # [T, N, S K]
        if rescaling:
            values = h_inv(values)
        ends = (terminated & (bootstrap_row == last)).unsqueeze(-1)  # [T, N, 1]
        samples = []
        for stream, (gamma, bootstrap) in enumerate(zip(gammas, values.chunk(streams, -1), strict=True)):
            discount = (gamma ** steps.to(values.dtype)).unsqueeze(-1)  # [T, N, 1]
            returns = n_step_returns(rewards[stream], steps, n_step, gamma)  # [T, N]
            if penalties is not None:
                returns = returns - penalties[stream, :unroll_length]
            samples.append(returns.unsqueeze(-1) + discount * bootstrap.masked_fill(ends, 0.0))  # [T, N, K]
        joined = torch.cat(samples, -1)
        return h(joined) if rescaling else joined  # [T, N, S K]


def loss_mask(train_length: Tensor, unroll_length: int) -> Tensor:
    """Which of the T rows are trained: train_length [N] int64 -> [T, N] bool."""
    return torch.arange(unroll_length, device=train_length.device).unsqueeze(1) < train_length.unsqueeze(0)


def taken_quantiles(quantiles: Tensor, actions: Tensor) -> Tensor:
    """Outputs for the taken actions: quantiles [T, N, A, ...], actions [T, N] int64 -> [T, N, ...]."""
    steps, batch_size, _, outputs = quantiles.shape
    assert actions.shape == (steps, batch_size), (actions.shape, quantiles.shape)
    index = actions.view(steps, batch_size, 1, 1).expand(-1, -1, -1, outputs)
    return quantiles.gather(2, index).squeeze(2)
