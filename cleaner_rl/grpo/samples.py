"""Sample: a token sequence to train on, with a weight for every token.

Names of tensors end in their axes: ``_T`` packed tokens, ``_S`` samples in a pack, ``_B`` episodes,
``_G`` episodes of a group, ``_V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sequence. What made it is of no concern to packing and loss.

    Attributes:
        ids: [T] token ids, prompt first.
        mask: [T] True where the policy sampled the token and the loss may count it. Token 0 is
            never counted, nothing predicts it.
        advantages: [T] advantage of each token; 0 where the mask is False.
        sampled_logprobs: [T] log-probability when the token was sampled; 0 where the mask is False.
        grafted: [T] True where the token was sampled in another context than the one it stands in.
        episode: number of the episode among those trained together. The samples of an episode share
            its weight where episodes are weighed alike; None is an episode of its own.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]
    advantages: tuple[float, ...]
    sampled_logprobs: tuple[float, ...]
    grafted: tuple[bool, ...]
    episode: int | None = None

    def __post_init__(self) -> None:
        fields = (self.ids, self.mask, self.advantages, self.sampled_logprobs, self.grafted)
        lengths = set(map(len, fields))
        assert len(lengths) == 1, f"one entry per token in every field, got lengths {lengths}"
        assert not self.mask[0], "nothing predicts the first token of a sample"

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counted(self) -> int:
        """Tokens that count in the loss's denominator."""
        return sum(self.mask)

    @property
    def has_signal(self) -> bool:
        """True when some counted token has an advantage, so that the gradient is not zero."""
        return any(m and a != 0.0 for m, a in zip(self.mask, self.advantages, strict=True))
