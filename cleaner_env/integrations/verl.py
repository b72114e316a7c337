"""verl: an agent loop in which SAAR acts. verl samples, and trains on the purified trajectory.

Rows of the data choose it by ``agent_name: cleaner_saar`` (``cleaner_env.tasks.verl.verl_rows``
makes such rows). A YAML file, verl's ``rollout.agent.agent_loop_config_path``, says where it is:

    - name: cleaner_saar
      _target_: cleaner_env.integrations.verl.SaarAgentLoop
      settings: {saar: {gamma: 0.5}, env: {max_turns: 16}}
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register
from verl.utils.profiler import simple_timer

from cleaner_env.chat import ChatCodec
from cleaner_env.integrations import shared_sandbox
from cleaner_env.rewards import FormatTerm, OverlongTerm, Reward, ToolTerm
from cleaner_env.tasks.verl import AGENT_NAME, verl_task
from cleaner_env.token_episode import Grafted, TokenEpisode, token_env

_TERMS = {"overlong": OverlongTerm, "tool": ToolTerm, "format": FormatTerm}
_ATTEMPTS = 2
"""How often an episode that the sandbox or a scorer spoils is played."""


@dataclass(frozen=True)
class Settings:
    """What the YAML file may set.

    Attributes:
        saar: arguments of ``SAARWrapper``.
        env: arguments of ``token_env``, those of ``CodeToolEnv`` among them.
        reward: arguments of ``Reward``, and mappings ``overlong``, ``tool`` and ``format`` with
            those of its terms; or a reward of one's own, as ``MODULE:OBJECT``.
        grafted: ``"recompute"`` trains grafted tokens, ``"mask"`` leaves them out.
        max_turn_tokens: the most tokens of a turn; None means what is left of the response.
        workers: programs that run at the same time in each of verl's agent loop workers.
        code_seconds: limit of one program.
        allow_weak: run programs where isolation is unavailable.
    """

    saar: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] | str = field(default_factory=dict)
    grafted: Grafted = "recompute"
    max_turn_tokens: int | None = None
    workers: int = 8
    code_seconds: float = 4.0
    allow_weak: bool = False


@register(AGENT_NAME)
class SaarAgentLoop(AgentLoopBase):
    """Plays an episode with SAAR; verl makes a loop for each trajectory.

    verl's ``response_length`` limits the response, outputs of programs included. The reward is the
    environment's; verl's reward functions are not asked.
    """

    def __init__(self, *args: Any, settings: Mapping[str, Any] | None = None, **verls: Any) -> None:
        super().__init__(*args, **verls)
        self.settings = Settings(**(settings or {}))
        self.codec = _codec(self.tokenizer)

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Play the row's task, again if the sandbox or a scorer spoils it, whose error is raised if
        they do so every time."""
        stops = [*(sampling_params.get("stop_token_ids") or ()), *self.codec.stop_ids]
        for _ in range(_ATTEMPTS):
            played = self._begin(row)
            output = await self._play(played, {**sampling_params, "stop_token_ids": stops})
            if not played.episode.faulted:
                return output
        assert played.fault is not None, "a spoilt episode keeps the error that spoilt it"
        raise played.fault

    def _begin(self, row: Mapping[str, Any]) -> TokenEpisode:
        settings, longest = self.settings, self.rollout_config.prompt_length
        env = token_env(
            self.codec,
            self.rollout_config.response_length,
            saar=settings.saar,
            reward=_reward(settings.reward),
            sandbox=shared_sandbox(settings.workers, settings.code_seconds, settings.allow_weak),
            **settings.env,
        )
        played = TokenEpisode(env, self.codec, verl_task(row))
        if len(played.prompt_ids) > longest:
            raise ValueError(
                f"a prompt has {len(played.prompt_ids)} tokens, its system prompt included; raise "
                f"data.max_prompt_length, which is {longest}, or leave the row out"
            )
        return played

    async def _play(self, played: TokenEpisode, sampling: dict[str, Any]) -> AgentLoopOutput:
        """Play the episode to its end."""
        request, seconds = uuid4().hex, dict[str, Any]()
        said = dict[str, Any]()  # by the server, such as the versions of its weights
        has_logprobs = True
        while not played.over:
            most = min(played.room, self.settings.max_turn_tokens or played.room)
            asked = {**sampling, "max_tokens": most}
            with simple_timer("generate_sequences", seconds):
                turn = await self.server_manager.generate(
                    request_id=request, prompt_ids=played.context, sampling_params=asked
                )
            ids = list(turn.token_ids)
            ended = len(ids) >= most or turn.stop_reason == "length"
            if not ended and not (ids and ids[-1] in self.codec.stop_ids):
                raise ValueError(
                    f"the server ended a turn after {len(ids)} of {most} tokens without a token "
                    f"that ends turns ({turn.stop_reason}); it must return the token at which it "
                    "stops, and max_model_len must be at least prompt_length + response_length"
                )
            has_logprobs = has_logprobs and turn.log_probs is not None
            newest = turn.extra_fields.get("max_global_steps")
            said = {**turn.extra_fields, **said, "max_global_steps": newest}
            with simple_timer("tool_calls", seconds):
                await asyncio.to_thread(played.step, ids, turn.log_probs or [0.0] * len(ids))
        row, episode = played.row(self.settings.grafted), played.episode
        counts = {"acc": float(episode.correct), **asdict(episode.stats)}
        said |= {"turn_scores": [], "tool_rewards": [], "reward_extra_info": counts}
        return AgentLoopOutput(
            prompt_ids=row.prompt_ids,
            response_ids=row.response_ids,
            response_mask=row.mask,
            response_logprobs=row.logprobs if has_logprobs else None,
            reward_score=row.reward,
            num_turns=sum(message["role"] != "system" for message in episode.messages),
            metrics=seconds,
            extra_fields=said,
        )


def _reward(given: Mapping[str, Any] | str) -> Reward | str:
    if isinstance(given, str):
        return given
    terms = [term(**given[name]) for name, term in _TERMS.items() if name in given]
    return Reward(**{k: v for k, v in given.items() if k not in _TERMS}, terms=tuple(terms))


@lru_cache(maxsize=1)
def _codec(tokenizer: Any) -> ChatCodec:
    """The codec of all loops in this process. Its tokenizer is a copy, because encoding without
    special tokens sets a flag, and verl encodes in other threads."""
    return ChatCodec(copy.deepcopy(tokenizer))
