"""Add SAAR to another environment: questions about a database, answered with SQL.

For SAAR, ``SqlEnv`` offers only ``info["call_ok"]`` and ``format``, which says where in a turn its
query is. It knows nothing about episode buffers, budgets or rollback. A query that fails changes
nothing, so there is nothing to retract.
"""

import re
import sqlite3
from typing import Any

import gymnasium as gym

from cleaner_env import Episode, ParsedTurn, SAARWrapper, TextSpace

QUESTION = "Which city has the most people? Tables: city(name, people)."
ROWS = [("Aarhus", 285_000), ("Odense", 182_000), ("Aalborg", 120_000)]


class SqlBlocks:
    """Format whose calls are SQL blocks between fences, one per turn."""

    def parse(self, text: str) -> ParsedTurn:
        """Find the query in a turn."""
        block = re.search(r"```sql\n(.*?)```", text, re.DOTALL)
        if block is None:
            return ParsedTurn(text, None, None, None, len(text))
        return ParsedTurn(text[: block.start()], block[0], block[1], None, block.start())


class SqlEnv(gym.Env[str, str]):
    """Answers a turn with a query by its rows; a turn without one is the final answer."""

    observation_space = action_space = TextSpace()
    format = SqlBlocks()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Create a new database."""
        super().reset(seed=seed)
        self.database = sqlite3.connect(":memory:")
        self.database.execute("create table city (name, people)")
        self.database.executemany("insert into city values (?, ?)", ROWS)
        return QUESTION, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Run a query, or grade the answer."""
        query = self.format.parse(action).code
        if query is None:
            return "", float("Aarhus" in action), True, False, {}
        try:
            rows = self.database.execute(query).fetchall()
        except sqlite3.Error as error:
            name = type(error).__name__
            return f"{name}: {error}", 0.0, False, False, {"call_ok": False, "error_class": name}
        return str(rows), 0.0, False, False, {"call_ok": True}

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def main() -> Episode:
    """Play one episode with a slip and return its buffer."""
    env = SAARWrapper(SqlEnv(), gamma=0.5)
    env.reset()
    for turn in (
        "I sort them.\n```sql\nselect name from cities order by people desc limit 1\n```",
        "It is called city.\n```sql\nselect name from city order by people desc limit 1\n```",
        "Aarhus has the most people.",
    ):
        observation, _, _, _, info = env.step(turn)
        print(f"{turn}\n-> {observation} (lookahead: {info['lookahead']})\n")
    print("kept:", [turn.text for turn in env.episode.turns])
    env.close()
    return env.episode


if __name__ == "__main__":
    main()
