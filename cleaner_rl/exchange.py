"""Exchange: the episodes that each rank played, given to all ranks."""

from __future__ import annotations

from collections.abc import Callable

from cleaner_env.completion import Decode
from cleaner_env.episode import Episode
from cleaner_rl.distributed.ranks import Ranks


def collect_episodes(
    ranks: Ranks, play: Callable[[], list[Episode]], decode: Decode
) -> list[Episode]:
    """What ``play`` gives on every rank, in the order of ranks.

    Episodes travel as the plain data that files of them hold; a single process keeps its own.

    Args:
        ranks: that play.
        play: this rank's episodes.
        decode: turns token ids into text.

    Raises:
        KeyboardInterrupt, RankError: as ``Ranks.collect``.
    """
    if ranks.size == 1:
        return ranks.collect(play)[0]
    played: list[Episode] = []

    def packed() -> list[dict[str, object]]:
        played.extend(play())
        return [episode.to_dict() for episode in played]

    parts = ranks.collect(packed)
    return [
        episode
        for rank, part in enumerate(parts)
        for episode in (
            played if rank == ranks.rank else [Episode.from_dict(row, decode) for row in part]
        )
    ]
