"""Simulate the credit rules of docs/credit.md in a world small enough to evaluate exactly.

    python benchmarks/slips.py                             one correction allowed without rollback
    python benchmarks/slips.py --turns 2 --slip 0.97 --lookahead-slip 0.5 --right 0.4

An episode chooses a program, right or wrong, and writes it with or without a slip; after a slip it
chooses and writes again, with the error in view. The policy is logistic: for every family of tasks,
it has a logit for the program and one for the slip, in the clean context and in that of a
lookahead. All families share a part of the slip's logit, and wrong programs slip more. There is no
language model and no sandbox; of the trainer, only advantages, rules and Adam remain. Accuracy and
first-call failures are calculated without rollback and averaged over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro

from cleaner_rl.grpo.advantages import branched_advantages, group_advantages
from cleaner_rl.settings import CreditRule

Rule = Literal["off"] | CreditRule
RULES: tuple[Rule, ...] = ("off", "purified", "positive", "contrastive", "branched")
CLEAN, LOOKAHEAD = 0, 1
Write = tuple[int, int, int]
"""Context, program (1 is right), slip (1 means failed)."""
Push = tuple[Write, float]
"""What was written, and the advantage it takes."""


@dataclass(frozen=True)
class World:
    """Settings of the simulation; probabilities are averages before training."""

    turns: int = 3
    """Turns without rollback, including the answer: 2 allows no correction."""
    slip: float = 0.5
    """Probability that the first call fails."""
    right: float = 0.6
    """Probability that its program is right."""
    lookahead_slip: float = 0.3
    """Probability that a correction fails."""
    retries: int = 3
    """Lookaheads at one position."""
    rho: float = 1.0
    """Share of episodes with rollback."""
    families: int = 12
    """Kinds of tasks."""
    prompts: int = 16
    """Problems per step."""
    group: int = 8
    """Episodes for each problem."""
    steps: int = 40
    """Training steps."""
    learning_rate: float = 0.05
    """Learning rate of Adam, on logits."""
    seeds: int = 16
    """Number of runs to average."""
    failure: float = 0.0
    """Reward of a branch, where a wrong answer earns 0 and a right one 1."""


class Policy:
    """Logits per context: program (2, families), shared slip (2), own slip (2, families, 2)."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        slips = np.array([world.slip, world.lookahead_slip])
        self.program = _logit(world.right) + rng.normal(0, 0.7, (2, world.families))
        self.program[LOOKAHEAD] -= 0.3
        self.shared = _logit(slips)
        self.own = rng.normal(0, 0.5, (2, world.families, 2)) + np.array([0.25, -0.25])
        self._moments = [(np.zeros_like(p), np.zeros_like(p)) for p in self._parameters]
        self._updates = 0

    @property
    def _parameters(self) -> list[np.ndarray]:
        return [self.program, self.shared, self.own]

    def p_right(self, context: int, family: int) -> float:
        """Probability of choosing the right program in this context."""
        return float(_sigmoid(self.program[context, family]))

    def p_slip(self, context: int, family: int, program: int) -> float:
        """Probability of writing this program with a slip in this context."""
        return float(_sigmoid(self.shared[context] + self.own[context, family, program]))

    def write(self, context: int, family: int, rng: np.random.Generator) -> Write:
        """Write a program, perhaps with a slip."""
        program = int(rng.random() < self.p_right(context, family))
        return context, program, int(rng.random() < self.p_slip(context, family, program))

    def learn(self, pushes: list[tuple[int, Push]], episodes: int, rate: float) -> None:
        """Take one Adam step along the mean of advantage times the log-probability gradient."""
        gradients = [np.zeros_like(p) for p in self._parameters]
        for family, ((context, program, slip), advantage) in pushes:
            error = advantage * (slip - self.p_slip(context, family, program))
            gradients[0][context, family] += advantage * (program - self.p_right(context, family))
            gradients[1][context] += error
            gradients[2][context, family, program] += error
        self._updates += 1
        for p, gradient, (first, second) in zip(
            self._parameters, gradients, self._moments, strict=True
        ):
            first += 0.1 * (gradient / episodes - first)
            second += 0.001 * ((gradient / episodes) ** 2 - second)
            mean = first / (1 - 0.9**self._updates)
            p += rate * mean / (np.sqrt(second / (1 - 0.999**self._updates)) + 1e-8)

    def measure(self, turns: int) -> tuple[float, float]:
        """Calculate accuracy and the share of failing first calls, without rollback."""
        accuracy = failed = 0.0
        families = self.program.shape[1]
        for family in range(families):
            reached = 1.0
            for turn in range(turns - 1):
                context = min(turn, LOOKAHEAD)
                right = self.p_right(context, family)
                slips = [self.p_slip(context, family, program) for program in (0, 1)]
                accuracy += reached * right * (1 - slips[1])
                reached *= (1 - right) * slips[0] + right * slips[1]
                failed += reached if turn == 0 else 0.0
        return accuracy / families, failed / families


def play(
    policy: Policy, family: int, tries: int, rng: np.random.Generator
) -> tuple[list[Write], float]:
    """Play an episode: what it writes, up to the first call that works, and its reward."""
    writes = [policy.write(CLEAN, family, rng)]
    while writes[-1][2] and len(writes) <= tries:
        writes.append(policy.write(LOOKAHEAD, family, rng))
    _, program, slip = writes[-1]
    return writes, float(program and not slip)


def pushes_of(rule: Rule, writes: list[Write], advantage: float, branch: float) -> Iterator[Push]:
    """The advantages that an episode with rollback assigns."""
    _, program, slip = writes[-1]
    grafted = len(writes) > 1
    if not (grafted and rule == "contrastive" and advantage < 0):
        floor = 0.0 if grafted and rule == "positive" else -np.inf
        yield (CLEAN, program, slip), max(advantage, floor)
    if grafted and rule == "contrastive" and advantage < 0:
        yield writes[0], advantage
    if grafted and rule == "branched":
        yield from ((write, branch) for write in writes[:-1])
        yield writes[-1], advantage


def train(rule: Rule, world: World, seed: int, every: int) -> list[tuple[float, float]]:
    """Train once, measuring before training and after ``every`` steps."""
    rng = np.random.default_rng(seed)
    policy = Policy(world, np.random.default_rng([seed, 1]))
    measured = [policy.measure(world.turns)]
    for step in range(1, world.steps + 1):
        pushes: list[tuple[int, Push]] = []
        for family in rng.integers(world.families, size=world.prompts):
            pushes += [(family, push) for push in group_pushes(rule, policy, world, family, rng)]
        policy.learn(pushes, world.prompts * world.group, world.learning_rate)
        if step % every == 0:
            measured.append(policy.measure(world.turns))
    return measured


def group_pushes(
    rule: Rule, policy: Policy, world: World, family: int, rng: np.random.Generator
) -> Iterator[Push]:
    """The pushes of a group of episodes."""
    rollbacks = [rule != "off" and rng.random() < world.rho for _ in range(world.group)]
    played = [
        play(policy, family, world.retries if on else world.turns - 2, rng) for on in rollbacks
    ]
    rewards = [reward for _, reward in played]
    branch, advantages = 0.0, group_advantages(rewards)
    if rule == "branched":
        spliced = sum(len(w) - 1 for (w, _), on in zip(played, rollbacks, strict=True) if on)
        advantages, branch = branched_advantages(rewards, spliced, world.failure)
    for (writes, _), on, advantage in zip(played, rollbacks, advantages, strict=True):
        if on:
            yield from pushes_of(rule, writes, advantage, branch)
        else:
            yield from ((write, advantage) for write in writes)


def main(world: World) -> None:
    """Print one row per rule: accuracy / first calls that fail, in percent, during training."""
    if world.turns < 2 or world.group < 2:
        raise SystemExit("--turns and --group must be at least 2")
    every = max(1, world.steps // 4)
    steps = range(0, world.steps + 1, every)
    print("accuracy / first call fails, %; ± one standard error of the last accuracy over seeds")
    print(f"{'after step':12}" + "".join(f"{step:>14}" for step in steps))
    for rule in RULES:
        runs = np.array([train(rule, world, seed, every) for seed in range(world.seeds)])
        cells = [f"{100 * a:.1f} / {100 * f:.1f}" for a, f in runs.mean(axis=0)]
        error = 100 * runs[:, -1, 0].std() / np.sqrt(world.seeds)
        print(f"{rule:12}" + "".join(f"{cell:>14}" for cell in cells) + f"  ± {error:.1f}")


def _logit(p: np.ndarray | float) -> np.ndarray:
    return np.log(np.asarray(p) / (1 - np.asarray(p)))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


if __name__ == "__main__":
    main(tyro.cli(World, description=__doc__))
