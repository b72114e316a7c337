"""Sample: a token sequence to train on, with an advantage for every token.

Tensor names end in their axes: ``_T`` packed tokens, ``_S`` samples in a pack, ``_B`` episodes,
``_G`` episodes of a group, ``_V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sequence. Packing and loss need not know where it came from.

    Attributes:
        ids: [T] token ids, prompt first.
        mask: [T] True where the policy sampled the token and the loss may count it. Token 0 is
            never counted, because nothing predicts it.
        advantages: [T] advantage of each token; 0 where the mask is False.
        sampled_logprobs: [T] log-probability when the token was sampled; 0 where the mask is False.
        grafted: [T] True where the token was sampled in a different context than the present one.
        episode: the episode's number among those trained together. Where all episodes weigh the
            same, the samples of one share its weight; None makes the sample its own episode.
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
        """The number of tokens that count in the loss's denominator."""
        return sum(self.mask)

    @property
    def has_signal(self) -> bool:
        """Whether any counted token has a nonzero advantage, and so contributes to the gradient."""
        return any(m and a != 0.0 for m, a in zip(self.mask, self.advantages, strict=True))
