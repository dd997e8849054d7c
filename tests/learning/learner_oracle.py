"""A slow oracle of the learner's loss: one item and one row at a time, written from the specification.

It shares nothing with the learner but the network's layers and h.
"""

from __future__ import annotations

import torch
from learner_fixtures import CONFIG, SPEC
from torch import Tensor

from cluster_rl.learning import targets
from cluster_rl.learning.batch import Batch
from cluster_rl.learning.r2d2 import R2D2
from cluster_rl.model import QNetwork, State


def eyes(learner: R2D2, network: QNetwork) -> QNetwork:
    """The network whose encoders `network`, one of the learner's, sees through."""
    return learner.online if learner.config.target_encoder == "online" else network


def step(learner: R2D2, network: QNetwork, batch: Batch, row: int, item: int, state: State) -> tuple[Tensor, State]:
    """One row of one item through the network: recurrent output [H] and the state after it."""
    names = ("screen_packed", "context", "crop", "prev_action", "prev_reward")
    frame = [getattr(batch, name)[row, item : item + 1] for name in names]
    outputs, state = network.recur(eyes(learner, network).encode(*frame).unsqueeze(0), state)
    return outputs[0, 0], state


def warm(learner: R2D2, network: QNetwork, batch: Batch, item: int) -> State:
    """The item's stored state, stepped over its own burn-in."""
    state = (batch.state_h[:, item : item + 1], batch.state_c[:, item : item + 1])
    for row in range(int(batch.burn_in_length[item])):
        _, state = step(learner, network, batch, row, item, state)
    return state


def quantile_loss_by_hand(predicted: Tensor, samples: Tensor, kappa: float) -> Tensor:
    """Pair by pair."""
    total = torch.zeros(())
    count = len(predicted)
    for k in range(count):
        for sample in samples:
            error = sample - predicted[k]
            huber = 0.5 * error**2 / kappa if abs(error) <= kappa else abs(error) - 0.5 * kappa
            total = total + abs((k + 0.5) / count - float(error < 0)) * huber / count
    return total


def follows_the_policy(cut: str, batch: Batch, row: int, item: int, values: Tensor) -> bool:
    """Whether a return that began earlier goes on over the action of this row, with the online values [A] there."""
    if cut == "watkins":
        return bool(batch.greedy[row, item])
    best = max(float(value) for value, valid in zip(values, batch.mask[row, item], strict=True) if valid)
    return cut == "none" or float(values[batch.action[row, item]]) >= best - 0.01 * abs(best)


def oracle(learner: R2D2, batch: Batch, gradient_through_burn_in: bool = False) -> tuple[Tensor, list[float]]:
    """Total loss and priorities by stepping each item alone, written from the specification."""
    config = learner.config
    h, h_inv = (targets.h, targets.h_inv) if config.value_rescaling else (torch.clone, torch.clone)
    K = config.num_quantiles
    gammas, unit = [config.gamma], (config.rewards.novelty + config.w_rnd) / (1 - config.intrinsic_gamma)
    parts = [slice(0, K)]
    if config.intrinsic_gamma and unit:
        gammas, parts = [config.gamma, config.intrinsic_gamma], [slice(0, K), slice(K, 2 * K)]

    def value(outputs: Tensor) -> Tensor:
        """[A, S K] -> [A]: by which actions are chosen."""
        means = [h_inv(outputs[:, part]).mean(-1) for part in parts]
        return means[0] if len(parts) == 1 else means[0] + unit * means[1]

    def reward(stream: int, row: int, item: int) -> float:
        whole, visits = float(batch.reward[row, item]), int(batch.visits[row, item])
        curious = 0.0 if batch.curiosity is None else float(batch.curiosity[row, item])
        if len(parts) == 1:
            return whole + curious
        tile = config.rewards.novelty / visits if visits else 0.0
        return (tile + curious) / unit if stream else whole - tile

    total, aux_total, trained = torch.zeros(()), torch.zeros(()), 0
    sequence_priorities = []
    for item in range(batch.size):
        last, length = int(batch.last[item]), int(batch.train_length[item])
        unrolled: dict[str, list[Tensor]] = {}
        for name, network in (("online", learner.online), ("target", learner.target)):
            with torch.set_grad_enabled(gradient_through_burn_in):
                state = warm(learner, network, batch, item)
            unrolled[name] = []
            for t in range(last + 1):
                output, state = step(learner, network, batch, CONFIG.burn_in + t, item, state)
                unrolled[name].append(output)
        errors = []
        for t in range(length):
            row = CONFIG.burn_in + t
            predicted = learner.online.head(unrolled["online"][t], noise=True)[batch.action[row, item]]
            m = n = min(CONFIG.n_step, last - t)
            for j in range(1, n):
                at_j = value(learner.online.head(unrolled["online"][t + j], noise=True)).detach()
                if m == n and not follows_the_policy(config.return_cut, batch, row + j, item, at_j):
                    m = j
            online = learner.online.head(unrolled["online"][t + m], noise=True)
            target = learner.target.head(unrolled["target"][t + m], noise=True)
            values = value(online).masked_fill(~batch.mask[row + m, item], -1e9)
            ended = bool(batch.terminated[item]) and t + m == last
            here = learner.target.head(unrolled["target"][t], noise=True)
            best = int(value(here).masked_fill(~batch.mask[row, item], -1e9).argmax())
            error = 0.0
            for stream, (part, gamma) in enumerate(zip(parts, gammas, strict=True)):
                returned = sum(gamma**j * reward(stream, row + j, item) for j in range(m))
                future = gamma**m * h_inv(target[values.argmax(), part])
                worth = h_inv(here[:, part]).mean(-1)
                short = worth[best] - worth[batch.action[row, item]]
                samples = h(returned - config.advantage_alpha * short + (0.0 if ended else 1.0) * future).detach()
                loss = quantile_loss_by_hand(predicted[part], samples, config.huber_kappa)
                total = total + batch.weights[item] * loss
                error += (unit if stream else 1.0) * float(samples.mean() - predicted[part].detach().mean())
            errors.append(abs(error))
            aux = torch.sigmoid(learner.online.aux(unrolled["online"][t]))
            seen = batch.context[row + n, item, list(SPEC.aux_slots)].float() / 255
            cross_entropy = -(seen * aux.log() + (1 - seen) * (1 - aux).log())
            aux_total = aux_total + batch.weights[item] * cross_entropy.mean()
            trained += 1
        eta = config.priority_eta
        sequence_priorities.append(eta * max(errors) + (1 - eta) * sum(errors) / len(errors))
    return (total + CONFIG.aux_loss_weight * aux_total) / trained, sequence_priorities
