#!/usr/bin/env python3
"""Checks the tests: breaks one clause of learning, acting or an episode's state at a time and expects a red test.

    scripts/mutations.py                      all mutations, about half a minute each
    scripts/mutations.py NAME [NAME ...]      some of them

Works on a copy in a temporary folder. Prints a table of mutations and the first test that each turned red. Exits with 1
if a mutation survives, if its old text is not found exactly once (the code has changed: write it anew), or if the tests
are red without any.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("cluster_rl", "tests", "setup.cfg", "pyproject.toml")

# Fast ones first: the first red test ends a run.
TEST_FILES = (
    "tests/learning/test_exact_losses.py",
    "tests/learning/test_exact_priorities.py",
    "tests/learning/test_streams.py",
    "tests/learning/test_exact_shaping.py",
    "tests/unit/test_rewards.py",
    "tests/unit/learning/test_sequences.py",
    "tests/unit/training/test_rate_limiter.py",
    "tests/unit/wire/test_peers.py",
    "tests/unit/runs/test_episode_log.py",
    "tests/unit/test_affordances.py",
    "tests/unit/test_occupancy.py",
    "tests/unit/test_sight.py",
    "tests/unit/game/test_flags.py",
    "tests/unit/game/test_world.py",
    "tests/unit/game/test_whereabouts.py",
    "tests/unit/acting/test_exploration.py",
    "tests/unit/acting/test_policy.py",
    "tests/unit/acting/test_wandering.py",
    "tests/unit/replay/test_quest_counts.py",
    "tests/unit/exploration/test_bayes_quests.py",
    "tests/learning/test_exact_rlax.py",
    "tests/learning/test_exact_targets.py",
    "tests/learning/test_return_cuts.py",
    "tests/learning/test_advantage_learning.py",
    "tests/learning/test_exact_oracle.py",
    "tests/learning/test_exact_update.py",
    "tests/learning/test_exact_rnd.py",
    "tests/learning/test_r2d2.py",
    "tests/unit/test_model.py",
    "tests/unit/training/test_trainer.py",
    "tests/unit/emulator/test_env.py",
    "tests/learning/test_exact_acting.py",
    "tests/learning/test_greedy_bits.py",
    "tests/learning/test_visits.py",
    "tests/learning/test_exact_replay.py",
    "tests/unit/test_replay_buffer.py",
    "tests/unit/test_evaluate.py",
    "tests/learning/test_trainer_resume.py",
    "tests/unit/training/test_trainer_metrics.py",
    "tests/unit/training/test_quest_monitor.py",
    "tests/unit/exploration/test_curriculum.py",
    "tests/unit/exploration/test_entries.py",
    "tests/unit/exploration/test_archive.py",
    "tests/unit/exploration/test_roaming.py",
    "tests/unit/emulator/test_puffer_env.py",
    "tests/unit/emulator/test_starts.py",
    "tests/unit/training/test_episode_rows.py",
    "tests/unit/training/test_metrics.py",
    "tests/unit/training/test_start_archive.py",
    "tests/learning/test_acting_from_states.py",
)

TARGETS = "cluster_rl/learning/targets.py"
LOSSES = "cluster_rl/learning/losses.py"
PRIORITIES = "cluster_rl/learning/priorities.py"
EXPLORATION = "cluster_rl/acting/exploration.py"
R2D2 = "cluster_rl/learning/r2d2.py"
RND = "cluster_rl/exploration/rnd.py"
OPTIMIZER_STATE = "cluster_rl/learning/optimizer_state.py"
REPLAY = "cluster_rl/replay_buffer.py"
REPLAY_INDEX = "cluster_rl/replay/index.py"
ACTOR = "cluster_rl/acting/loop.py"
WANDERING = "cluster_rl/acting/wandering.py"
EVALUATE = "cluster_rl/evaluate.py"
POLICY = "cluster_rl/acting/policy.py"
ROLLOUT = "cluster_rl/acting/rollout.py"
SEQUENCES = "cluster_rl/learning/sequences.py"
LIMITER = "cluster_rl/training/rate_limiter.py"
TRAINER = "cluster_rl/training/trainer.py"
PEERS = "cluster_rl/wire/peers.py"
QUESTS = "cluster_rl/exploration/bayes_quests.py"
SHAPING = "cluster_rl/exploration/shaping.py"
TOTALS = "cluster_rl/replay/totals.py"
REPLAY_LOG = "cluster_rl/replay/log.py"
QUEST_ROWS = "cluster_rl/training/quest_rows.py"
QUEST_MONITOR = "cluster_rl/training/quest_monitor.py"
PROBES = "cluster_rl/training/probes.py"
MODEL = "cluster_rl/model.py"
ENCODERS = "cluster_rl/networks/encoders.py"
NOISY_LINEAR = "cluster_rl/networks/noisy_linear.py"
RECURRENT_CELL = "cluster_rl/networks/recurrent_cell.py"
REWARDS = "cluster_rl/rewards.py"
OCCUPANCY = "cluster_rl/occupancy_memory.py"
AFFORDANCES = "cluster_rl/affordances.py"
WHEREABOUTS = "cluster_rl/game/whereabouts.py"
FLAGS = "cluster_rl/game/flags.py"
WORLD = "cluster_rl/game/world.py"
ENV = "cluster_rl/emulator/env.py"
EPISODE_LOG = "cluster_rl/runs/episode_log.py"
CURRICULUM = "cluster_rl/exploration/curriculum.py"
ARCHIVE = "cluster_rl/exploration/archive.py"
ENTRIES = "cluster_rl/exploration/entries.py"
ROAMING = "cluster_rl/exploration/roaming.py"
EPISODE_ROWS = "cluster_rl/training/episode_rows.py"
GROWING_FILE = "cluster_rl/runs/growing_file.py"
ASIDE = "cluster_rl/runs/aside.py"


@dataclass(frozen=True)
class Mutation:
    """One clause broken: in `file`, `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str


_WARM_TARGET = "self.warm_state(self.target, batch, for_target, burn_in_lengths)"
_CLIP = "grad_norm = torch.nn.utils.clip_grad_norm_(self._online_weights, self.config.max_grad_norm)"
_COUNTED = "torch.where(mask, step_losses * weights, torch.zeros_like(step_losses))"
_MASKED_ARGMAX = 'values.masked_fill(~masks, float("-inf")).argmax(-1)'
_ACTOR_PUTS = "play.crop, play.mask, quantiles)"
_ACTOR_STATE = "        state_h, state_c = play.state\n"
_ACTOR_ACT = "        noisy, quantiles = play.act()\n"
_CUT_BY = "online_quantiles,\n            batch.mask[unroll],\n            config.value_rescaling"
_TAIL = "self.online.recur(features[steps.stop :], state)"
_HISTORY_BEGINS = "state = _state(network, history[0][1])"
_EPISODE_BEGINS = "        self._memory = EpisodeMemory.at(state)\n"
_LOG_COLUMNS = "in (self._actions, self._checks, self._positions, self._hashes, self._scripts, self._blackouts):"


def _outlives(part: str, keep: str) -> Mutation:
    """`part` of the rewards' memory outlives the episode: `keep` brings `old` into the new memory."""
    kept = f'        old = getattr(self, "_memory", None)\n{_EPISODE_BEGINS}        if old:\n            {keep}\n'
    return Mutation(f"{part} outlive the episode", REWARDS, _EPISODE_BEGINS, kept)


MUTATIONS = (
    # Where episodes begin.
    Mutation("a stage counts whatever its quest is worth", CURRICULUM, "stage_weights.get(name, 0.0)", "1.0"),
    Mutation("each set of milestones is a stage", CURRICULUM, 'next(missing, "")', '" ".join(entry.milestones)'),
    Mutation("a stage may never be drawn", CURRICULUM, "max(_STAGE_FLOOR, stage_weights", "(stage_weights"),
    Mutation("a stage counts by the number of its states", CURRICULUM, "stage * one / total", "stage * one"),
    Mutation("a state often tried counts as a fresh one", CURRICULUM, " / math.sqrt(1 + entry.episodes)", ""),
    Mutation("what followed from a state does not count", CURRICULUM, "max(_FOLLOWED_FLOOR, followed)", "1.0"),
    Mutation("counts do not fade", CURRICULUM, "self.episodes * FORGET + 1", "self.episodes + 1"),
    Mutation("any state replaces that of its cell", ARCHIVE, "not entry.steps <= CLEARLY_FEWER * known.steps", "False"),
    Mutation("a newer state is set aside", ARCHIVE, "if isinstance(why, NewerFormatError):", "if False:"),
    Mutation(
        "a newer proposal is set aside", ARCHIVE, "except NewerFormatError as error:", "except KeyError as error:"
    ),
    Mutation("the number of states has no bound", ARCHIVE, "+ (known is None) > self._max_entries", "< 0"),
    Mutation("the bytes of states have no bound", ARCHIVE, "entries.archived_bytes - own + entry.size_bytes >", "0 >"),
    Mutation(
        "what is evicted keeps its bytes", ENTRIES, "self._count(self._entries.pop(key), -1)", "del self._entries[key]"
    ),
    Mutation("what gives way keeps its bytes", ENTRIES, "self._count(self._entries.get(entry.key), -1)", "pass"),
    Mutation(
        "a user's states count for the bound",
        ENTRIES,
        'entry is not None and entry.tag == "archive"',
        "entry is not None",
    ),
    Mutation("states are evicted by what they were", ENTRIES, " or self._rank(entry) != rank:", ":"),
    Mutation("a spared state is never evicted", ENTRIES, "if spared is not None:", "if False:"),
    Mutation("rows are counted again", TRAINER, "if row.record < archive.next_record:", "if False:"),
    Mutation(
        "rows of numbers given again do not count",
        TRAINER,
        "archive.next_record = self.replay.next_id",
        "pass",
    ),
    Mutation(
        "numbers given again are known in memory alone",
        TRAINER,
        "            archive.publish()\n        self._counted_bytes",
        "        self._counted_bytes",
    ),
    Mutation(
        "a damaged row takes all behind it away",
        TRAINER,
        "self._counted_bytes = error.end",
        "self._counted_bytes = self.run_dir.episodes.stat().st_size",
    ),
    Mutation("a damaged row is met at each start", ARCHIVE, "self._changed |= self._damage_passed", "pass"),
    Mutation("damage is told before what is behind it", ARCHIVE, "self._damage_passed = True", "self._changed = True"),
    Mutation("an index for a number alone", ARCHIVE, "self._changed |= self._damage_passed", "self._changed = True"),
    Mutation("states of another ROM are let in", ARCHIVE, "found.header.rom_sha1 != self._rom_sha1", "False"),
    Mutation("all episodes begin elsewhere", ARCHIVE, "rng.random() >= self._share", "False"),
    Mutation("a state is proposed again and again", ARCHIVE, "        self._proposed[header.key] = header.steps\n", ""),
    Mutation("an archived start forgets the map", ENV, "memory.occupancy if memory", "None if memory"),
    Mutation("an archived start is paid again", ENV, "memory.rewards if memory", "None if memory"),
    Mutation("an archived start forgets its flags", ENV, "memory.latch if memory", "None if memory"),
    Mutation(
        "the way to the start counts nothing", ENV, "self._steps_before + self.episode_steps", "self.episode_steps"
    ),
    Mutation("who hurries presses A all the same", WANDERING, "_IDLE_A_WEIGHT, 1.0)", "1.0, 1.0)"),
    Mutation("who hurries presses no A in a text", WANDERING, "& (context[:, _INTERFACE_UP] == 0)", "& True"),
    Mutation("who hurries presses B all the same", WANDERING, "_IDLE_B_WEIGHT, 1.0)", "1.0, 1.0)"),
    Mutation("an archived start forgets what was said", ENV, "memory.recurrent if memory", 'b"" if memory'),
    Mutation(
        "a start has the cell's state for the hidden one",
        ROLLOUT,
        "values[:width], values[width:]",
        "values[width:], values[:width]",
    ),
    Mutation("a damaged recurrent state is taken", ROLLOUT, "if np.isfinite(values).all()", "if True"),
    Mutation("states are saved while a map loads", ENV, "here != (state.map_id, state.x, state.y)", "False"),
    Mutation(
        "sequences do not say where they began",
        ACTOR,
        "begin(slot.episode, tag)",
        "begin(slot.episode)",
    ),
    Mutation(
        "milestones from elsewhere are the run's",
        TOTALS,
        "self.milestones_elsewhere if header.elsewhere",
        "{} if False",
    ),
    Mutation("circles go on after a reward", ROAMING, "            self._visits.clear()\n", "            pass\n"),
    Mutation("rows come before their sequences are on disk", EPISODE_ROWS, "        sync()\n", ""),
    Mutation("rows come again after a start", EPISODE_ROWS, " and record > self._newest", ""),
    Mutation("a stopped episode is a failure", TRAINER, ' and (row.milestones or row.reason != "stopped")', ""),
    # The run's settings.
    Mutation("rescaling cannot be turned off", R2D2, "rescaling=config.value_rescaling", "rescaling=True"),
    Mutation("Huber's threshold is always 1", R2D2, "config.huber_kappa", "1.0"),
    Mutation("eta is always 0.9", R2D2, "mask, config.priority_eta", "mask, 0.9"),
    Mutation(
        "actors always undo h",
        ACTOR,
        "acting_values(noisy, self.config.value_rescaling, ",
        "acting_values(noisy, True, ",
    ),
    # State and burn-in.
    Mutation("target from a zero state", R2D2, _WARM_TARGET, "self.target.initial_state(batch.size)"),
    Mutation("target without burn-in", R2D2, _WARM_TARGET, "(batch.state_h, batch.state_c)"),
    Mutation(
        "target's burn-in with online weights", R2D2, _WARM_TARGET, _WARM_TARGET.replace("self.target,", "self.online,")
    ),
    Mutation(
        "gradient through the burn-in",
        R2D2,
        "with torch.no_grad():\n            _, state = network.recur(",
        "with torch.enable_grad():\n            _, state = network.recur(",
    ),
    Mutation(
        "unused burn-in slots are run through",
        R2D2,
        "features[: self.config.burn_in], state, lengths)",
        "features[: self.config.burn_in], state)",
    ),
    Mutation("the tail from the state before the trained rows", R2D2, _TAIL, _TAIL.replace("state)", "online_state)")),
    Mutation(
        "the tail from a zero state",
        R2D2,
        _TAIL,
        _TAIL.replace("state)", "self.online.initial_state(batch.size))"),
    ),
    Mutation(
        "trained rows from the target's state",
        R2D2,
        "self.online.recur(features[steps], online_state)",
        "self.online.recur(features[steps], target_state)",
    ),
    Mutation("a cut history begins with a zero state", PROBES, _HISTORY_BEGINS, "state = network.initial_state(1)"),
    Mutation(
        "a cut history without its burn-in",
        PROBES,
        "(0 if index == 0 else window[0].burn_in_length)",
        "window[0].burn_in_length",
    ),
    Mutation(
        "a look at the final observation advances the state",
        ROLLOUT,
        "return self._forward()[1]",
        "_, clean, self._state = self._forward()\n        return clean",
    ),
    Mutation(
        "stored cell state is the hidden one",
        ACTOR,
        "greedy, state_h, state_c)",
        "greedy, state_h, state_h)",
    ),
    Mutation(
        "stored visits are of the first tile", ACTOR, "step.reward, step.visits,", "step.reward, min(step.visits, 1),"
    ),
    Mutation("visits of a long stay begin anew", SEQUENCES, "min(visits, MAX_VISITS)", "visits % 256"),
    Mutation("stored state is the one after the step", ACTOR, _ACTOR_STATE + _ACTOR_ACT, _ACTOR_ACT + _ACTOR_STATE),
    # Targets.
    Mutation(
        "a finished task is sent as truncated", ACTOR, "self.slots[row], step.terminated,", "self.slots[row], False,"
    ),
    Mutation("mask left out of the bootstrap action", TARGETS, _MASKED_ARGMAX, "values.argmax(-1)"),
    Mutation(
        "bootstrap action by the target net",
        TARGETS,
        "expected_values(online, rescaling, weights)",
        "expected_values(target, rescaling, weights)",
    ),
    Mutation(
        "masked actions are among the best",
        TARGETS,
        "best = greedy_actions(weighted_sum(by_stream, weights), masks)",
        "best = weighted_sum(by_stream, weights).argmax(-1)",
    ),
    Mutation(
        "the best action by the game's stream alone",
        TARGETS,
        "best = greedy_actions(weighted_sum(by_stream, weights), masks)",
        "best = greedy_actions(by_stream[..., 0], masks)",
    ),
    Mutation(
        "each stream has the game's discount",
        TARGETS,
        "n_step_returns(rewards[stream], steps, n_step, gamma)",
        "n_step_returns(rewards[stream], steps, n_step, gammas[0])",
    ),
    Mutation(
        "each stream's future has the game's discount",
        TARGETS,
        "discount = (gamma ** steps",
        "discount = (gammas[0] ** steps",
    ),
    Mutation("tiles are paid for in both streams", TARGETS, "torch.stack([rewards - tiles,", "torch.stack([rewards,"),
    Mutation("the intrinsic stream is in units of reward", TARGETS, "intrinsic / weights[1]", "intrinsic"),
    Mutation(
        "RND pays nothing in a stream of its own", TARGETS, "tiles if curiosity is None else tiles + curiosity", "tiles"
    ),
    Mutation(
        "RND pays nothing in one stream", TARGETS, "rewards if curiosity is None else rewards + curiosity", "rewards"
    ),
    Mutation(
        "actors act by the game's stream",
        EXPLORATION,
        "@ np.array(weights, np.float32)",
        "@ np.array([1.0] + [0.0] * (len(weights) - 1), np.float32)",
    ),
    Mutation(
        "TD errors of the game's stream",
        PRIORITIES,
        "return weighted_sum(by_stream, weights)",
        "return weighted_sum(by_stream[..., :1], weights[:1])",
    ),
    Mutation(
        "initial priorities without visits",
        ACTOR,
        "visits[:used, column] = sequence.visits[start:]",
        "visits[:used, column] = 0",
    ),
    Mutation(
        "the loss of the last stream alone",
        R2D2,
        "step_losses = step_losses + losses",
        "step_losses = losses",
    ),
    Mutation(
        "penalties by the online net",
        R2D2,
        "            target_quantiles,\n            batch.action",
        "            online_quantiles,\n            batch.action",
    ),
    Mutation(
        "initial priorities without penalties",
        PRIORITIES,
        "            config.advantage_alpha, quantiles,",
        "            0.0, quantiles,",
    ),
    Mutation(
        "bootstrap value by the online net", TARGETS, "taken_quantiles(target, best)", "taken_quantiles(online, best)"
    ),
    Mutation("truncation as termination", TARGETS, "(terminated & (bootstrap_row == last))", "(bootstrap_row == last)"),
    Mutation(
        "termination as truncation",
        TARGETS,
        "discount * bootstrap.masked_fill(ends, 0.0)",
        "discount * bootstrap",
    ),
    Mutation(
        "termination at every row",
        TARGETS,
        "(terminated & (bootstrap_row == last))",
        "(terminated & (bootstrap_row <= last))",
    ),
    Mutation("n-step one too short", TARGETS, ".clamp(min=0, max=n_step)", ".clamp(min=0, max=n_step - 1)"),
    Mutation(
        "discount one step short", TARGETS, "gamma ** steps.to(values.dtype)", "gamma ** (steps.to(values.dtype) - 1)"
    ),
    Mutation(
        "reward at the last row is read", TARGETS, "offsets < steps.unsqueeze(-1)", "offsets <= steps.unsqueeze(-1)"
    ),
    Mutation(
        "h on the mean of the samples",
        TARGETS,
        "samples.append(returns.unsqueeze(-1) + discount * bootstrap.masked_fill(ends, 0.0))",
        "samples.append((returns.unsqueeze(-1) + discount * bootstrap.masked_fill(ends, 0.0)).mean(-1, keepdim=True)"
        ".expand_as(bootstrap))",
    ),
    Mutation("bootstrap values left in h-space", TARGETS, "values = h_inv(values)", "values = values * 1.0"),
    Mutation(
        "expectation before inversion",
        TARGETS,
        "torch.stack([part.mean(-1) for part in returns.chunk(streams, -1)], -1)",
        "(h_inv if rescaling else torch.clone)("
        "torch.stack([part.mean(-1) for part in quantiles.chunk(streams, -1)], -1))",
    ),
    # Returns that end before an action that was not the policy's.
    Mutation("returns are never cut", TARGETS, "unroll_length, n_step, goes_on)", "unroll_length, n_step)"),
    Mutation("the action at t itself cuts", TARGETS, "[:unroll_length, :, 1:]", "[:unroll_length]"),
    Mutation("a return goes on behind a cut", TARGETS, ".cumprod(-1).sum(-1)", ".sum(-1)"),
    Mutation("a return is cut one row late", TARGETS, "(steps, 1 + after", "(steps, 2 + after"),
    Mutation("nearly the best is the best", TARGETS, "best - SOFT_WATKINS_TOLERANCE * best.abs()", "best"),
    Mutation("nearly the best of negative values is better", TARGETS, "TOLERANCE * best.abs()", "TOLERANCE * best"),
    Mutation("the learner cuts no return", R2D2, "goes_on=goes_on,", "goes_on=None,"),
    Mutation("cut by the target net", R2D2, _CUT_BY, _CUT_BY.replace("online", "target")),
    Mutation("cut by the actions of other rows", R2D2, "batch.greedy[unroll],", "batch.greedy[unroll].roll(1, 0),"),
    Mutation("quests never forget", QUESTS, "keep = 0.5 ** (1.0 / half_life_episodes)", "keep = 1.0"),
    Mutation("half a prior", QUESTS, "return 1.0 + self.failures", "return 0.5 + self.failures"),
    Mutation("what a start had reached is tried", QUESTS, "if quest.name not in start and (", "if ("),
    Mutation("episodes that were cut are trials", QUESTS, "(steps >= budget or ended_by_game):", "True:"),
    Mutation("a game that is over is no trial", QUESTS, "(steps >= budget or ended_by_game):", "steps >= budget:"),
    Mutation("no budget", QUESTS, "steps_to.get(quest.name, math.inf) <= budget", "quest.name in steps_to"),
    Mutation("the budget's last step is late", QUESTS, "math.inf) <= budget", "math.inf) < budget"),
    Mutation(
        "all quests have one budget", QUESTS, "rules.budgets.get(quest.name, rules.budget_steps)", "rules.budget_steps"
    ),
    Mutation("counts by other budgets are gone on with", QUESTS, ", tuple(sorted(self.budgets.items())))", ")"),
    Mutation("never is something to fall from", QUESTS, "if self.mean >= NEVER and self", "if self"),
    Mutation("two successes are a rate", QUESTS, "_LEAST_SUCCESSES = 3", "_LEAST_SUCCESSES = 2"),
    Mutation("the first success is no growth", QUESTS, "self.reached == 1 or low >", "low >"),
    Mutation("an alarm for what is above", QUESTS, "alarm = float(betainc(", "alarm = 1.0 - float(betainc("),
    Mutation("critical only beyond", QUESTS, "alarm >= CRITICAL", "alarm > CRITICAL"),
    Mutation(
        "blocks are merged in halves",
        QUESTS,
        "zip(self.blocks[::2], self.blocks[1::2]",
        "zip(self.blocks[:4], self.blocks[4:]",
    ),
    Mutation(
        "optional quests are a frontier",
        QUESTS,
        "if quest.required and quest.name in records}",
        "if quest.name in records}",
    ),
    Mutation(
        "the prior brings quests near", QUESTS, "record.reached == 0 or record.mean < NEVER", "record.mean < NEVER"
    ),
    Mutation("what all starts lie behind ends the way", QUESTS, "if place > furthest or not", "if place >= 0 or not"),
    Mutation("curiosity for what one quest lacks", QUESTS, "waited = min(", "waited = max("),
    Mutation(
        "optional quests are practised",
        QUESTS,
        "required = [quest.name for quest in rules.quests if quest.required]",
        "required = [quest.name for quest in rules.quests]",
    ),
    Mutation(
        "what is passed by is a stage", QUESTS, "if place > furthest or records.get(name", "if True or records.get(name"
    ),
    Mutation(
        "what is reached reliably is practised most",
        QUESTS,
        "1.0 - mean_of(records, name)",
        "mean_of(records, name)",
    ),
    Mutation("no practice of what is reliable", QUESTS, "max(LEAST_START_WEIGHT, 1.0", "max(0.0, 1.0"),
    Mutation("no episode explores to its end", ACTOR, "1.0 if self._explores[row] else ladder[row]", "ladder[row]"),
    Mutation("episodes from the beginning explore", ACTOR, " if is_elsewhere(tag) else 0.0", ""),
    Mutation("quests handed out are the log's", QUESTS, "blocks=self.blocks.copy()", "blocks=self.blocks"),
    Mutation(
        "shaping beyond the task's end", SHAPING, "phi.masked_fill(batch.terminated & (rows == batch.last), 0.0)", "phi"
    ),
    Mutation("no potential at a step limit", SHAPING, "batch.terminated & (rows == batch.last)", "rows == batch.last"),
    Mutation("shaping without discount", SHAPING, "gamma * phi[1:]", "phi[1:]"),
    Mutation("shaping the replay's own rewards", SHAPING, "batch.reward.clone()", "batch.reward"),
    Mutation("the certain weighs most", SHAPING, "1.0 - mean_of(records, quest.name)", "mean_of(records, quest.name)"),
    Mutation("curiosity learns what is not finite", RND, "= (~good).float()", "= torch.zeros(())"),
    Mutation("usual errors that are not finite", RND, "learned = mask & good", "learned = mask"),
    Mutation("curiosity unscaled", TRAINER, "self.config.w_rnd * self.quests.curiosity_scale()", "self.config.w_rnd"),
    Mutation("batches without shaping", TRAINER, "self.quests.shape(Batch", "(Batch"),
    Mutation("a step limit ends the game", TOTALS, 'summary.reason == "terminated"', "summary.is_whole"),
    Mutation("starts elsewhere are forgotten", TOTALS, "start=header.summary.start.milestones", "start=()"),
    Mutation(
        "the fewer trials of two logs", TOTALS, "key=lambda record: record.trials", "key=lambda record: -record.trials"
    ),
    Mutation(
        "quests of two rules are one count",
        REPLAY_LOG,
        "header.before.quests_counted_by != self._quests.counting",
        "False",
    ),
    Mutation(
        "new counts without a header",
        REPLAY_LOG,
        "self._begin_segment()  # whose header has the new counts",
        "pass  # the new counts",
    ),
    Mutation("counts by a checkpoint's other rules", TOTALS, "other.quests if alike else {}", "other.quests"),
    Mutation("the first hour begins with the job", QUEST_ROWS, "_Newest()\n", "_Newest(time=time.time())\n"),
    Mutation("half a row of an episode stays", EPISODE_ROWS, "self.notes = cut_torn_line(path)", "self.notes = []"),
    Mutation(
        "a row of the log's next record stays",
        EPISODE_ROWS,
        "self._newest >= next_record",
        "self._newest > next_record",
    ),
    Mutation("a lost log takes all rows away", EPISODE_ROWS, "_last_before(path, next_record)", "-1, 0"),
    Mutation("rows of lost records stay", EPISODE_ROWS, "if record < next_record:", "if True:"),
    Mutation(
        "a row is written again and again", EPISODE_ROWS, "            self._waiting.popleft()\n", "            pass\n"
    ),
    Mutation(
        "a torn row is read",
        EPISODE_ROWS,
        "                return\n            begin",
        "                pass\n            begin",
    ),
    Mutation("rows are read from the file's beginning", EPISODE_ROWS, "        file.seek(begin)\n", ""),
    Mutation(
        "rows are written without a sync",
        TRAINER,
        "self.episode_rows.write(self.replay.sync)",
        "self.episode_rows.write(lambda: None)",
    ),
    Mutation("rows of episodes wait for the end", TRAINER, "if self._episodes_writer.is_due:", "if False:"),
    Mutation("a damaged file takes an earlier one's place", ASIDE, "while free.exists():", "while False:"),
    Mutation(
        "damage at a file's end is cut off untold",
        GROWING_FILE,
        "position < end <= position + MAX_ROW_BYTES",
        "position < end",
    ),
    Mutation(
        "an episode's entropy is its sum",
        ACTOR,
        "entropy = self._entropy.of(row) / summary.episode_steps",
        "entropy = self._entropy.of(row)",
    ),
    Mutation("entropy outlives the episode", ACTOR, "        self._entropy.begin(row)\n", ""),
    Mutation(
        "steps before the episode have entropy",
        EXPLORATION,
        "np.where(counts, flat.reshape(counts.shape), 0.0)",
        "flat.reshape(counts.shape)",
    ),
    Mutation("entropies are added twice", EXPLORATION, "self._firsts[:] = self._kept = 0", "self._kept = 0"),
    Mutation(
        "all quests that stagnate are told",
        QUEST_MONITOR,
        "for name in ahead if name in states and",
        "for name in states if",
    ),
    Mutation("quests without an alarm are told", QUEST_MONITOR, 'if state.level != "ok"', "if True"),
    Mutation("quests never reached have metrics", QUEST_MONITOR, "if state.reached:", "if True:"),
    Mutation(
        "the scale of curiosity is told where it is fixed",
        QUEST_MONITOR,
        "curiosity_scale_max > 1 else {}",
        "curiosity_scale_max > 0 else {}",
    ),
    Mutation("an hour without an episode", QUEST_ROWS, "(new > 0 and time", "(new >= 0 and time"),
    Mutation("a row of a hundred and one", QUEST_ROWS, "new >= ROW_EPISODES", "new > ROW_EPISODES"),
    Mutation("half a quest row stays", QUEST_ROWS, "self.notes = cut_torn_line(self._path)", "self.notes = []"),
    Mutation("initial priorities without cuts", PRIORITIES, "(config.return_cut, greedy,", '("none", greedy,'),
    Mutation(
        "actors forget what was the policy's",
        ACTOR,
        "greedy[:used, column] = sequence.greedy[start:]",
        "greedy[:used, column] = True",
    ),
    Mutation(
        "the best action by values without noise",
        ACTOR,
        "self._exploration.best\n",
        "np.where(play.mask, acting_values(quantiles, self.config.value_rescaling), -1e9).argmax(1)\n",
    ),
    Mutation(
        "the best action, masked or not",
        ACTOR,
        "self._exploration.best\n",
        "values.argmax(1)\n",
    ),
    Mutation(
        "stored bits are another step's",
        SEQUENCES,
        "greedy[-1], reward[-1], visits[-1] = 0,",
        "greedy[0], reward[-1], visits[-1] = 0,",
    ),
    # Curiosity.
    Mutation("the error of the frame before the step", RND, "slice(first + 1, None)", "slice(first, -1)"),
    Mutation("the last frame's own step is paid", RND, "self._rows < batch.last", "self._rows <= batch.last"),
    Mutation("padding trains the predictor", RND, "torch.where(mask, errors, 0.0).sum()", "errors.sum()"),
    Mutation("every batch trains the predictor", RND, "self.updates % BATCHES_A_TRAINED_ONE == 0", "True"),
    Mutation("nothing is whitened", RND, "torch.addcmul(shift, seen, factor)", "seen.clone()"),
    Mutation(
        "whitening of before a restart",
        RND,
        'self.updates = int(state["updates"])\n        self._whitening, self._usual =',
        'self.updates = int(state["updates"])\n        _, self._usual =',
    ),
    Mutation(
        "usual errors of before a restart",
        RND,
        'self.updates = int(state["updates"])\n        self._whitening, self._usual =',
        'self.updates = int(state["updates"])\n        self._whitening, _ =',
    ),
    Mutation(
        "whitening never follows",
        RND,
        "self._whitening = self._whitening_now()\n        with torch.set",
        "pass\n        with torch.set",
    ),
    Mutation(
        "usual errors never follow",
        RND,
        "self._usual = self._usual_now()\n        self.updates",
        "pass\n        self.updates",
    ),
    Mutation(
        "scores are not whitened",
        RND,
        "self._whitening = self._whitening_now()\n        with torch.no",
        "pass\n        with torch.no",
    ),
    Mutation(
        "scores know no usual error", RND, "self._usual = self._usual_now()\n        return", "pass\n        return"
    ),
    Mutation("whitened inputs without a bound", RND, ".clamp_(-MAX_WHITENED, MAX_WHITENED)", ""),
    Mutation("scoring moves what is usual of frames", RND, "if not self.inputs.count:", "if True:"),
    Mutation("scoring moves what is usual of errors", RND, "if not self.errors.count:", "if True:"),
    Mutation("first scores are not whitened", RND, "if not self.inputs.count:", "if False:"),
    Mutation("first scores against no usual error", RND, "if not self.errors.count:", "if False:"),
    Mutation("the known costs something", RND, ".clamp_(1.0, MAX_BONUS)", ".clamp_(-MAX_BONUS, MAX_BONUS)"),
    Mutation("a bonus alone without a bound", RND, "(errors / deviation).clamp_(max=MAX_BONUS)", "errors / deviation"),
    Mutation("an infinite error is the largest bonus", RND, "errors < torch.inf, bonus", "~errors.isnan(), bonus"),
    Mutation(
        "an error that is no number pays nothing", RND, "torch.where(errors < torch.inf, bonus, torch.nan)", "bonus"
    ),
    Mutation("by counts, standing pays", RND, "torch.where(visits > 0, factor / visits, 0.0)", "factor"),
    Mutation("moments without what moved the mean", RND, " + (1.0 - share) * moved.square()", ""),
    Mutation("no horizon", RND, ".clamp(min=self._smallest_share)", ""),
    Mutation("curiosity forgets whose turn it is", RND, 'self.updates = int(state["updates"])', "self.updates = 0"),
    Mutation("curiosity is not restored", TRAINER, 'self.rnd.load_state_dict(state["rnd"])', "pass"),
    Mutation(
        "the learner trains without the bonus", TRAINER, "self.r2d2.update(batch)", "self.r2d2.update(sampled.batch)"
    ),
    # Losses.
    Mutation("tau on the targets' axis", LOSSES, "1.0 - taus.unsqueeze(-1), taus.unsqueeze(-1))", "1.0 - taus, taus)"),
    Mutation("importance weights left out", LOSSES, _COUNTED, _COUNTED.replace(" * weights", "")),
    Mutation("padding in the loss", LOSSES, _COUNTED, "step_losses * weights"),
    Mutation(
        "auxiliary loss unmasked",
        R2D2,
        "return losses.weighted_step_mean(step_losses, mask, batch.weights)",
        "return losses.weighted_step_mean(step_losses, torch.ones_like(mask), batch.weights)",
    ),
    Mutation(
        "auxiliary loss unweighted",
        R2D2,
        "return losses.weighted_step_mean(step_losses, mask, batch.weights)",
        "return losses.weighted_step_mean(step_losses, mask, torch.ones_like(batch.weights))",
    ),
    Mutation(
        "clip before backward",
        R2D2,
        f"loss.total.backward()\n        {_CLIP}",
        f"{_CLIP}\n        loss.total.backward()",
    ),
    # Priorities.
    Mutation(
        "TD errors have the other sign",
        R2D2,
        "priorities.td_errors(taken, returns, weights)",
        "priorities.td_errors(returns, taken, weights)",
    ),
    Mutation("priority of the mean alone", PRIORITIES, "(eta * counted.amax(0) + (1.0 - eta) * mean)", "mean"),
    Mutation("priority of errors with their sign", PRIORITIES, "errors.abs()", "errors"),
    Mutation("priority floor dropped", PRIORITIES, ".clamp(min=PRIORITY_FLOOR)", ""),
    Mutation(
        "padding in the priority",
        PRIORITIES,
        "torch.where(mask, errors.abs(), torch.zeros_like(errors))",
        "errors.abs()",
    ),
    Mutation("initial priorities without rescaling", PRIORITIES, "rescaling=config.value_rescaling", "rescaling=False"),
    Mutation(
        "initial priorities with another mix",
        PRIORITIES,
        "td_errors(taken, targets, weights), mask, config.priority_eta)",
        "td_errors(taken, targets, weights), mask, 0.0)",
    ),
    Mutation("initial priorities from noisy values", ACTOR, _ACTOR_PUTS, _ACTOR_PUTS.replace("quantiles", "noisy")),
    Mutation(
        "importance weights of the replay are all 1",
        REPLAY,
        "importance_weights(probabilities, self._config.importance_beta)",
        "importance_weights(probabilities, 0.0)",
    ),
    Mutation(
        "stale priority update accepted",
        REPLAY_INDEX,
        "live = (ids >= self.oldest_id) & (ids < self.next_id)",
        "live = ids < self.next_id",
    ),
    # Acting, noise, target copies, resuming.
    Mutation("greedy action ignores the mask", EXPLORATION, "np.where(masks, values, -np.inf)", "values"),
    Mutation(
        "random action ignores the mask",
        EXPLORATION,
        "np.where(masks, times / np.where(masks, weights, 1.0), np.inf)",
        "(times / np.where(masks, weights, 1.0))",
    ),
    Mutation(
        "a held action goes on where it is masked",
        EXPLORATION,
        "(self._left > 0) & masks[self._rows, self._held]",
        "self._left > 0",
    ),
    Mutation("random play outlasts the episode", ACTOR, "        self._exploration.release(row)\n", ""),
    Mutation(
        "random stretches are as long as the time between them",
        EXPLORATION,
        "np.where(self._wanders, self._end, self._begin)",
        "self._begin",
    ),
    Mutation(
        "actors see no previous reward", ROLLOUT, "self._prev_reward[row] = reward", "self._prev_reward[row] = 0.0"
    ),
    Mutation(
        "an episode begins with the last one's reward",
        ROLLOUT,
        "self._observe(row, observation, NO_ACTION, 0.0)",
        "self._observe(row, observation, NO_ACTION, float(self._prev_reward[row]))",
    ),
    Mutation(
        "evaluation takes no notice of masks",
        EVALUATE,
        "select_actions(values, rollout.mask,",
        "select_actions(values, np.ones_like(rollout.mask),",
    ),
    Mutation(
        "evaluation always undoes h",
        EVALUATE,
        "acting_values(quantiles, config.value_rescaling, ",
        "acting_values(quantiles, True, ",
    ),
    Mutation(
        "all actors play the first one's epsilons", ACTOR, "actor_epsilons(config, index)", "actor_epsilons(config, 0)"
    ),
    Mutation(
        "an actor's emulators play its first epsilon",
        ACTOR,
        "acting_epsilons(self._ladder, self.params_version)",
        "np.full_like(self._ladder, acting_epsilons(self._ladder, self.params_version)[0])",
    ),
    Mutation("Adam's epsilon is its default", R2D2, ", eps=config.adam_epsilon", ""),
    Mutation(
        "Q of the start always undoes h",
        TRAINER,
        "start_value(self.r2d2.online, starts, self.config)",
        "start_value(self.r2d2.online, starts, msgspec.structs.replace(self.config, value_rescaling=True))",
    ),
    Mutation("the lag in training counts the update itself", TRAINER, "self.r2d2.updates - 1", "self.r2d2.updates"),
    Mutation("evaluation plays with noise", EVALUATE, "_, quantiles = rollout.act()", "quantiles, _ = rollout.act()"),
    Mutation(
        "random actions take no notice of the map",
        ACTOR,
        "play.mask[rows], play.crop[rows], play.context[rows], self.config",
        "play.mask[rows], play.crop[rows] * 0, play.context[rows], self.config",
    ),
    Mutation("random actions are drawn alike", EXPLORATION, "times / np.where(masks, weights, 1.0)", "times"),
    Mutation("what is out of reach draws on", WANDERING, "    in_sight *= np.minimum(", "    np.minimum("),
    Mutation(
        "actors take no notice of battles",
        ACTOR,
        "play.context[rows], self.config",
        "play.context[rows] * 0, self.config",
    ),
    Mutation(
        "battles are fought as anything else",
        WANDERING,
        "fights = context.take(_IN_BATTLE, axis=1).any(1)",
        "fights = masks.all(1) & False",
    ),
    Mutation("START is as likely as any button", WANDERING, "weights[:, _START] *= _START_WEIGHT", "pass"),
    Mutation("actors know no frontier", ACTOR, "play.context[rows], self.config.frontier_weight", "play.context[rows]"),
    Mutation(
        "ways to the frontier lead through walls",
        WANDERING,
        "if further not in reached and known[further] not in _BARS:",
        "if further not in reached:",
    ),
    Mutation("ways to the frontier lead through doors", WANDERING, "if known[cell] == WARP:", "if False:"),
    Mutation("a frontier is looked for in battles", WANDERING, "np.flatnonzero(~fights) if", "range(len(crop)) if"),
    Mutation("ways to the frontier begin anywhere", WANDERING, "if mask[direction] and known", "if known"),
    Mutation("the frontier is behind what was entered", WANDERING, "if not visited[cell]:", "if visited[cell]:"),
    Mutation("what was seen draws on", WANDERING, "255 - beside, 0))", "255, 0))"),
    Mutation(
        "actors act without noise",
        ACTOR,
        "acting_values(noisy, self.config.value_rescaling, ",
        "acting_values(quantiles, self.config.value_rescaling, ",
    ),
    Mutation("an actor's noise is never drawn anew", ACTOR, "self._network.resample_noise(self._noise)", "pass"),
    Mutation("an episode begins with the last one's state", ROLLOUT, "part[row] = begins", "pass"),
    Mutation("a time limit bootstraps from the step before", ACTOR, "final = play.peek()", "final = quantiles"),
    Mutation(
        "initial priorities without the masks",
        ACTOR,
        "masks[:used, column] = sequence.mask[start:]",
        "masks[:used, column] = True",
    ),
    Mutation("a screen is known by its upper half", POLICY, "screen.tobytes()", "screen[:36].tobytes()"),
    Mutation("new parameters are not acted by", ACTOR, "if newest is not None or self", "if self"),
    Mutation("new noise is not acted by", ACTOR, " or self._network.head_value.is_noisy:", ":"),
    Mutation("screens are remembered without end", POLICY, "self._known.clear()", "pass"),
    Mutation("all emulators have one epsilon", EXPLORATION, "base ** (1.0 + alpha * rungs)", "base + 0.0 * rungs"),
    Mutation("a lone emulator has no rung", EXPLORATION, "/ max(count - 1, 1)", "/ (count - 1)"),
    Mutation(
        "an episode begins with the last one's action",
        ROLLOUT,
        "self._observe(row, observation, NO_ACTION, 0.0)",
        "self._observe(row, observation, int(self._prev_action[row]), 0.0)",
    ),
    Mutation(
        "a held action outlasts the episode",
        EXPLORATION,
        "self._left[row], self._wanders[row] = 0, False",
        "self._wanders[row] = False",
    ),
    Mutation("an actor counts one emulator's steps", ACTOR, "self.env_steps += len(self.slots)", "self.env_steps += 1"),
    # How weights and noise start.
    Mutation("encoders start as PyTorch has it", MODEL, "encoder.apply(initialise_for_relu)", "pass"),
    Mutation("the trunk starts as PyTorch has it", MODEL, "self.crop_encoder, self.trunk):", "self.crop_encoder):"),
    Mutation("encoders start with biases", ENCODERS, "nn.init.zeros_(layer.bias)", "pass"),
    Mutation("noisy weights start out of bounds", NOISY_LINEAR, "bound = 1.0 / math.sqrt(in_features)", "bound = 1.0"),
    Mutation(
        "sigma of biases not by fan-in",
        NOISY_LINEAR,
        "torch.full((out_features,), sigma * bound)",
        "torch.full((out_features,), sigma)",
    ),
    Mutation("noise is normal", MODEL, "drawn.sign() * drawn.abs().sqrt()", "drawn"),
    Mutation("forget gates start without bias", RECURRENT_CELL, "for_forget.fill_(1.0)", "for_forget.fill_(0.0)"),
    # What an episode must not keep of the one before.
    *(
        _outlives(part, f"self._memory.{name}.update(old.{name})")
        for part, name in (("cells entered", "visits"), ("maps", "maps"), ("texts", "texts"), ("items", "items"))
    ),
    *(
        _outlives(part, f"self._memory.{name} = old.{name}")
        for part, name in (("badges", "badges"), ("species", "species"), ("best levels", "best_levels_total"))
    ),
    _outlives("faints", "self._memory.was_fainted = old.was_fainted"),
    Mutation("a door's fade is an arrival", WHEREABOUTS, "if state.warps and header == self._header:", "if False:"),
    Mutation("a map that loads has a crop", OCCUPANCY, "if arrived else None", "if True else None"),
    Mutation("map memory outlives the episode", OCCUPANCY, "        self._maps.clear()\n", ""),
    Mutation(
        "the whole map is known",
        OCCUPANCY,
        "= self._there[screen]",
        "= self._there[screen]\n        self.planes[1] = self._there",
    ),
    Mutation("the screen is as wide to the left", OCCUPANCY, "column - _LEFT, column", "column - _RIGHT, column"),
    Mutation("the screen ends a column early", OCCUPANCY, "column + _RIGHT + 1", "column + _RIGHT"),
    Mutation("the screen has a row less above", OCCUPANCY, "slice(row - _UP,", "slice(row - _UP + 1,"),
    Mutation("people beside the screen are shown", OCCUPANCY, "if in_sight and abs", "if abs"),
    Mutation("in a battle people are shown", OCCUPANCY, "if state.in_battle != BATTLE_NONE:", "if False:"),
    Mutation(
        "milestones outlive the episode", ENV, "self._latch.start(self.state,", "self._latch.update(self.state) or ("
    ),
    Mutation(
        "the latch's event flags outlive the episode",
        FLAGS,
        "        self._events = 0\n        self._remember(())",
        '        self._events = getattr(self, "_events", 0)\n        self._remember(())',
    ),
    Mutation("a milestone's byte that changes is not seen", FLAGS, "if seen == self._seen:", "if self._seen:"),
    Mutation(
        "where events stood outlives the episode", FLAGS, "= None  # what", '= getattr(self, "_seen", None)  # what'
    ),
    Mutation("an end that comes is not seen", WORLD, "if seen in self._no_ends:", "if self._no_ends:"),
    Mutation("what comes into the bag pays nothing", REWARDS, "state.belongings != before.belongings or ", ""),
    Mutation(
        "the summary's milestones outlive the episode",
        ENV,
        "self._milestones: list[tuple[str, int]] = []",
        'self._milestones: list[tuple[str, int]] = getattr(self, "_milestones", [])',
    ),
    Mutation(
        "keys ignored at an episode's end count at the next one's start",
        AFFORDANCES,
        "        self._ignored = None\n        return self._look",
        "        return self._look",
    ),
    Mutation(
        "learned of the situation before while none is known",
        AFFORDANCES,
        "self._situation, self._learnable = found if found is not None else (None, 0)",
        "self._situation, self._learnable = found or (self._situation, self._learnable)",
    ),
    *(
        Mutation(
            f"the log's {name[1:]} outlive the episode",
            EPISODE_LOG,
            _LOG_COLUMNS,
            _LOG_COLUMNS.replace(f"self.{name}, ", ""),
        )
        for name in ("_actions", "_checks", "_positions", "_hashes", "_scripts")
    ),
    Mutation(
        "the log's blackouts outlive the episode",
        EPISODE_LOG,
        _LOG_COLUMNS,
        _LOG_COLUMNS.replace(", self._blackouts", ""),
    ),
    Mutation(
        "a finished log is written again as unfinished",
        EPISODE_LOG,
        "        self._write(summary)\n        self._snapshot = None",
        "        self._write(summary)",
    ),
    Mutation(
        "milestones of a dropped episode",
        SEQUENCES,
        "        self._pending.clear()\n        self._milestones.clear()\n",
        "        self._pending.clear()\n",
    ),
    # Sequences, limiter, metrics.
    Mutation("padding counts as sampled", TRAINER, 'int(arrays["train_length"].sum())', "self.limiter.sample_chunk"),
    Mutation(
        "burn-in and tail count as inserted",
        TRAINER,
        "record_insert(result.header.train_length)",
        "record_insert(result.header.positions)",
    ),
    Mutation(
        "burn-in and tail count as env steps",
        TOTALS,
        "self.env_steps += header.train_length",
        "self.env_steps += header.positions",
    ),
    Mutation("batches in flight are not counted", TRAINER, "self.batches_in_flight * batch", "0"),
    Mutation("each actor may send what all may", PEERS, "free = room - sum(unused)", "free = room * len(unused)"),
    Mutation(
        "what was logged without a checkpoint is not inserted",
        TRAINER,
        'load_state_dict({"sampled": 0}, self.replay.env_steps)',
        'load_state_dict({"sampled": 0}, 0)',
    ),
    Mutation("the target sees through its own encoders alone", R2D2, 'if config.target_encoder == "own"', "if True"),
    Mutation("samples an insert stay as they were", LIMITER, "schedule=config.samples_per_insert_schedule,", ""),
    Mutation(
        "a stretch of the schedule forgets those before",
        LIMITER,
        "_owed_before.append(self.owed(begins))",
        "_owed_before.append(0.0)",
    ),
    Mutation(
        "room by the first ratio",
        LIMITER,
        "_owed_before[stretch]) / self._rates[stretch]",
        "_owed_before[stretch]) / self._rates[0]",
    ),
    Mutation("what is forgiven is forgotten at a resume", LIMITER, 'int(state.get("forgiven", 0))', "0"),
    Mutation("the buffer is that of the highest rate", LIMITER, "max(self._rates[first:behind])", "max(self._rates)"),
    Mutation("the limiter's tolerance is fixed", LIMITER, "config.samples_per_insert_tolerance,", "0.1,"),
    Mutation("TD errors of padding", R2D2, 'errors.masked_fill(~mask, float("nan"))', "errors"),
    Mutation("means over padding", R2D2, "count = mask.sum()", "count = mask.numel()"),
    Mutation("the newest 10 episodes count", TOTALS, "RECENT_EPISODES = 100", "RECENT_EPISODES = 10"),
    Mutation(
        "a step at an edge is trained twice",
        SEQUENCES,
        "self._pending.append((self._window_start, self._steps, self._window_policy))\n            "
        "self._window_start = self._steps",
        "self._pending.append((self._window_start, self._steps, self._window_policy))\n            "
        "self._window_start = self._steps - 1",
    ),
    Mutation(
        "burn-in from before the episode's start", SEQUENCES, "min(self.spec.burn_in, start)", "self.spec.burn_in"
    ),
    Mutation(
        "limiter is not resumed",
        TRAINER,
        'self.limiter.load_state_dict(state["limiter"], ',
        'self.limiter.load_state_dict({"sampled": 0}, ',
    ),
    Mutation(
        "what is owed is forgiven at a resume", LIMITER, 'max(self.buffer, -state.get("ahead", 0.0))', "self.buffer"
    ),
    Mutation(
        "padding in the metrics",
        R2D2,
        "torch.where(mask, values, torch.zeros_like(values))",
        "values",
    ),
    Mutation("same noise for both networks", R2D2, "manual_seed(2 * seed + 1)", "manual_seed(2 * seed)"),
    Mutation("target's noise is never drawn anew", R2D2, "self.target.resample_noise(self._target_noise)", "pass"),
    Mutation(
        "target is never copied",
        R2D2,
        "if number % self.config.target_update_interval == 0:",
        "if number < 0:",
    ),
    Mutation(
        "target is copied at every update",
        R2D2,
        "if number % self.config.target_update_interval == 0:",
        "if number > 0:",
    ),
    Mutation(
        "the mean of the weights is only the newest",
        R2D2,
        "share = 1 / min(self.updates, self.config.averaging_updates)",
        "share = 1",
    ),
    Mutation(
        "averaged weights are not resumed", R2D2, 'copy_tensors(parts["averaged"]', 'copy_tensors(parts["online"]'
    ),
    Mutation(
        "target is not resumed",
        R2D2,
        'copy_tensors(parts["target"], self.target.state_dict(), what)',
        'copy_tensors(parts["online"], self.target.state_dict(), what)',
    ),
    Mutation("optimiser is not resumed", OPTIMIZER_STATE, "optimizer.state.update(grouped)", "pass"),
    Mutation(
        "noise is not resumed",
        R2D2,
        'self._target_noise.set_state(parts["rng"]["target_noise"])',
        "pass",
    ),
)


def run_tests(folder: Path) -> tuple[int, str]:
    """(exit code, first red test) of the tests in a copy of the repository; the code is 0 if all are green."""
    # No bytecode: a mutated file may have the size and the second of the original.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    arguments = [sys.executable, "-m", "pytest", "-x", "--tb=no", "-rfE", *TEST_FILES]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    red = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+\.py\S*(?: [^-]\S*)*)", done.stdout, re.MULTILINE)
    return done.returncode, red.group(1) if red else done.stdout.strip().rsplit("\n", 1)[-1]


def check(mutation: Mutation, folder: Path) -> tuple[bool, str]:
    """(whether a test found it, which one or what is wrong)."""
    path = folder / mutation.file
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1:
        return False, f"its old text is found {count} times in {mutation.file}"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        code, red = run_tests(folder)
    finally:
        path.write_text(text, encoding="utf-8")
    # 1 is red tests; anything else (no tests, an internal error, a usage error) proves nothing.
    return (True, red) if code == 1 else (False, "SURVIVED" if code == 0 else f"pytest ended with {code}: {red}")


def main() -> int:
    """Runs the chosen mutations. The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutations to run; all without any")
    names = parser.parse_args().names
    unknown = set(names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as temporary:
        folder = Path(temporary)
        for name in COPIED:
            source, ignore = ROOT / name, shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=ignore)
            else:
                shutil.copy(source, folder / name)
        code, red = run_tests(folder)
        if code != 0:
            print(f"the tests are not green without a mutation: {red}")
            return 1
        width = max(len(mutation.name) for mutation in MUTATIONS)
        print(f"{'mutation':{width}} | s  | first red test", flush=True)
        for mutation in MUTATIONS:
            if names and mutation.name not in names:
                continue
            started = time.monotonic()
            found, what = check(mutation, folder)
            failed += not found
            print(f"{mutation.name:{width}} | {time.monotonic() - started:2.0f} | {what}", flush=True)
    print(f"{failed} mutations were not found" if failed else "every mutation was found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
