"""Value rescaling, expected values and n-step double-Q targets, as pure functions of float32 tensors.

The learner computes its targets with them; the actors compute expected values to act by and initial priorities. Inputs
and outputs lie on one device; nothing here keeps state. Everything must be called in float32 outside autocast: the
inverse of the rescaling loses most of its digits in half precision.

Names: T trained positions, n the n-step length, R = T + n recorded rows (trained positions and tail), N sequences,
A actions, K quantiles. "h-space" is where the network's outputs live when value rescaling is on.
"""

from __future__ import annotations

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


def expected_values(quantiles: Tensor, rescaling: bool) -> Tensor:
    """Q values in reward units from quantiles [..., K]: the mean is taken after the inversion.

    The mean in h-space ranks risky actions wrongly, because h of a mean is not the mean of h.
    """
    return (h_inv(quantiles) if rescaling else quantiles).mean(-1)  # [...]


def greedy_actions(values: Tensor, masks: Tensor) -> Tensor:
    """Index of the best valid action: values [..., A] float, masks [..., A] bool -> [...] int64."""
    assert values.shape == masks.shape, (values.shape, masks.shape)
    return values.masked_fill(~masks, float("-inf")).argmax(-1)


def return_goes_on(
    cut: ReturnCut, greedy: Tensor, actions: Tensor, quantiles: Tensor, masks: Tensor, rescaling: bool
) -> Tensor | None:
    """Whether a return may go on over the action of each row, [R, N] bool; None: over every one.

    What a random action earns is not what the greedy policy would, whose value is learned: a return that goes on over
    it is biased. `watkins` ends returns before actions that were not the actor's best (Watkins 1989, Q(lambda) with
    lambda 1), `soft_watkins` before those that are not nearly the best by today's values (Kapturowski et al. 2022).

    Args:
        greedy: [R, N] bool, whether the action was the best valid one when it was taken.
        actions: [R, N] int64.
        quantiles: [R, N, A, K], by which an action is nearly the best one (`soft_watkins`): its expected value, in
            reward units, is less than the best valid one's by at most `SOFT_WATKINS_TOLERANCE` of that one's size.
        masks: [R, N, A] bool, the valid actions.
    """
    if cut == "none":
        return None
    if cut == "watkins":
        return greedy
    values = expected_values(quantiles.detach(), rescaling)  # [R, N, A]
    best = values.masked_fill(~masks, float("-inf")).amax(-1)
    taken = values.gather(2, actions.unsqueeze(-1)).squeeze(-1)
    return taken >= best - SOFT_WATKINS_TOLERANCE * best.abs()


def advantage_penalties(
    alpha: float, quantiles: Tensor, actions: Tensor, masks: Tensor, rescaling: bool
) -> Tensor | None:
    """What is taken off the target of each row's action, [R, N] in reward units, at least 0; None: nothing.

    Advantage learning (Baird 1999; Bellemare et al. 2016): `alpha` times what the action falls short of the best valid
    one, max Q - Q. The best action and its value stay as they are, all others come to lie 1 / (1 - alpha) times as far
    below it: errors of a network that are small beside values, but not beside the difference that one step makes, no
    longer decide which action is greedy.

    Args:
        quantiles: [R, N, A, K], by which actions are valued, by the network that values the bootstrap action.
        actions: [R, N] int64, those taken.
        masks: [R, N, A] bool, the valid actions; none valid on unused rows, which get 0.
    """
    if alpha == 0:
        return None
    with torch.no_grad():
        values = expected_values(quantiles, rescaling)  # [R, N, A]
        best = values.masked_fill(~masks, float("-inf")).amax(-1)
        taken = values.gather(2, actions.unsqueeze(-1)).squeeze(-1)
        return alpha * (best - taken).clamp(min=0.0)


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
    gamma: float,
    rescaling: bool,
    goes_on: Tensor | None = None,
    penalties: Tensor | None = None,
) -> Tensor:
    """n-step double-Q target samples for every trained position, without gradient.

    Args:
        online: [R, N, A, K] quantiles that choose the bootstrap action (by expected value, among valid actions).
        target: [R, N, A, K] quantiles that value it.
        masks: [R, N, A] bool, the valid actions recorded at each row.
        rewards: [R, N] reward of the step taken at each row.
        last: [N] int64, the last recorded row of each sequence.
        terminated: [N] bool, whether the segment ended at `last` by termination: then `last` is worth nothing. A
            truncated segment bootstraps from its final observation like any other.
        goes_on: [R, N] bool, see `return_goes_on`: a return ends, and bootstraps, at the first row after its own where
            it is False. None: nowhere before n steps.
        penalties: [R, N], see `advantage_penalties`; None: none.

    Returns:
        [T, N, K] target samples (h-space if `rescaling`). Rows behind the trained length hold finite filler if their
        inputs are finite; the caller masks them.
    """
    rows, batch_size, num_actions, num_quantiles = online.shape
    unroll_length = rows - n_step
    assert target.shape == online.shape, (target.shape, online.shape)
    assert masks.shape == (rows, batch_size, num_actions), masks.shape
    assert rewards.shape == (rows, batch_size), rewards.shape
    assert goes_on is None or goes_on.shape == rewards.shape, (goes_on, rewards.shape)
    assert penalties is None or penalties.shape == rewards.shape, (penalties, rewards.shape)
    assert last.shape == terminated.shape == (batch_size,), (last.shape, terminated.shape)
    with torch.no_grad():
        best = greedy_actions(expected_values(online, rescaling), masks)  # [R, N]
        best = best.view(rows, batch_size, 1, 1).expand(-1, -1, -1, num_quantiles)
        values = target.gather(2, best).squeeze(2)  # [R, N, K]

        steps = bootstrap_steps(last, unroll_length, n_step, goes_on)  # [T, N]
        bootstrap_row = torch.arange(unroll_length, device=last.device).unsqueeze(1) + steps  # [T, N]
        values = values.gather(0, bootstrap_row.unsqueeze(-1).expand(-1, -1, num_quantiles))  # [T, N, K]
        if rescaling:
            values = h_inv(values)
        ends = (terminated & (bootstrap_row == last)).unsqueeze(-1)  # [T, N, 1]
        discount = (gamma ** steps.to(values.dtype)).unsqueeze(-1)  # [T, N, 1]
        returns = n_step_returns(rewards, steps, n_step, gamma).unsqueeze(-1)  # [T, N, 1]
        if penalties is not None:
            returns = returns - penalties[:unroll_length].unsqueeze(-1)
        samples = returns + torch.where(ends, torch.zeros_like(values), discount * values)
        return h(samples) if rescaling else samples  # [T, N, K]


def loss_mask(train_length: Tensor, unroll_length: int) -> Tensor:
    """Which of the T rows are trained: train_length [N] int64 -> [T, N] bool."""
    return torch.arange(unroll_length, device=train_length.device).unsqueeze(1) < train_length.unsqueeze(0)


def taken_quantiles(quantiles: Tensor, actions: Tensor) -> Tensor:
    """Quantiles of the taken actions: quantiles [T, N, A, K], actions [T, N] int64 -> [T, N, K]."""
    steps, batch_size, _, num_quantiles = quantiles.shape
    assert actions.shape == (steps, batch_size), (actions.shape, quantiles.shape)
    index = actions.view(steps, batch_size, 1, 1).expand(-1, -1, -1, num_quantiles)
    return quantiles.gather(2, index).squeeze(2)
