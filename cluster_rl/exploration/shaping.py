"""Shaping: rewards for milestones that do not change what is optimal, put on a batch as it is sampled.

The learner uses it, with `w_bayes` above 0. In: a batch, and what each milestone weighs now. Out: the batch with other
rewards. Ng, Harada and Russell 1999: with a potential Phi of states, 0 where the task has ended, each step's reward
gets F(s, s') = gamma Phi(s') - Phi(s). Over m steps from s these are gamma^m Phi(s_m) - Phi(s), whatever was done:
every action's value in s is smaller by Phi(s), and the best one stays the best. A truncated episode bootstraps from its
final observation, whose potential counts. Phi follows the posterior, which moves slowly (Devlin and Kudenko 2012 have
the proof for a potential that changes).

Actors, evaluation, logged returns, previous rewards in the network's input and initial priorities know no shaping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from cluster_rl.exploration.bayes_quests import QuestRecord, QuestRules, mean_of
from cluster_rl.learning.batch import Batch


def potential_weights(records: Mapping[str, QuestRecord], rules: QuestRules, w_bayes: float) -> Tensor:
    """What each quest adds to the potential once it is reached, float32 [quests]: w_bayes (1 - mean of theta)."""
    return torch.tensor([w_bayes * (1.0 - mean_of(records, quest.name)) for quest in rules.quests])


def potentials(batch: Batch, slots: Tensor, weights: Tensor, burn_in: int) -> Tensor:
    """Phi of the rows from `burn_in` on, [R, N]: 0 where the task has ended.

    `slots` int64 [quests] are the context's, 255 from when the milestone was reached; `weights` float32 [quests].
    """
    reached = batch.context[burn_in:].index_select(-1, slots).float() / 255.0  # [R, N, quests]
    phi = reached @ weights  # [R, N]
    rows = torch.arange(len(phi), device=phi.device).unsqueeze(1)
    return phi.masked_fill(batch.terminated & (rows == batch.last), 0.0)


def shaped(batch: Batch, slots: Tensor, weights: Tensor, burn_in: int, gamma: float) -> Batch:
    """The batch with F added to the rewards from row `burn_in` on; that of the last recorded row means nothing."""
    phi = potentials(batch, slots, weights, burn_in)
    reward = batch.reward.clone()
    reward[burn_in:-1] += gamma * phi[1:] - phi[:-1]
    return dataclasses.replace(batch, reward=reward)
