"""TRL's side of benchmarks/vs_trl.py: GRPOTrainer with a Python tool, as its users would set it up.

The tool is a plain function given to ``tools=``, TRL's own interface for multi-turn tool use. TRL
looks up response templates by chat template and does not know the bundled policy's, so it is given
that of Qwen3, whose format is the same. The bundled policy was taught its tool without a system
prompt, so the chat template is told to leave the tools' schemas out. Prompts then have the same ids
on both sides, which is checked. A malformed call reaches TRL as an answer and ends the episode;
here it is an error that the model sees, so TRL's episodes are a little shorter.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import signal
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from measured_steps import Args, Step, Usage, wait

from cleaner_env.observation import format_observation
from cleaner_env.rewards import Reward
from cleaner_env.task import Task
from cleaner_env.tasks.load import load_tasks
from sandbox import Result, Status

_SECONDS = 1.0
"""Wall-time limit of one program, as in the tiny preset."""
_NO_SCHEMAS = "{%- set tools = none -%}"


class Tool:
    """Runs programs with exec in this process, and counts failures and seconds."""

    def __init__(self) -> None:
        self.failed = 0
        self.seconds = 0.0

    def code_interpreter(self, code: str) -> str:
        """Run a Python program and return what it prints.

        Args:
            code: The program. Print the results.

        Returns:
            What it printed.
        """
        began = time.perf_counter()
        result = run_unisolated(code)
        self.failed += not result.ok
        self.seconds += time.perf_counter() - began
        return format_observation(result)


def run_unisolated(code: str) -> Result:
    """The result that the sandbox would give, computed without a sandbox."""
    written = io.StringIO()
    linecache.cache["main.py"] = (len(code), None, code.splitlines(keepends=True), "main.py")
    previous = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        with contextlib.redirect_stdout(written):
            exec(compile(code, "main.py", "exec"), {"__name__": "__main__"})
    except (Exception, SystemExit) as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        entry = error.__traceback__
        while entry is not None and entry.tb_frame.f_code.co_filename == __file__:
            entry = entry.tb_next
        text = "".join(traceback.format_exception(type(error), error, entry))
        return Result(Status.ERROR, written.getvalue(), traceback=text)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return Result(Status.OK, written.getvalue())


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"the program ran longer than {_SECONDS:g} s")


def trl(args: Args, parent: Connection) -> None:
    """Train with GRPOTrainer; see ``measured_steps.Arm``."""
    import torch
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import PrinterCallback, TrainerCallback
    from transformers.utils.logging import set_verbosity_error
    from trl import GRPOConfig, GRPOTrainer
    from trl.chat_template_utils import qwen3_template

    from cleaner_rl.models.policy import load_policy

    warnings.simplefilter("ignore")
    set_verbosity_error()
    disable_progress_bar()
    torch.set_num_threads(args.threads)
    policy = load_policy("bundled", "cpu")
    tokenizer = policy.tokenizer
    tokenizer.chat_template = _NO_SCHEMAS + tokenizer.chat_template
    tokenizer.response_template = qwen3_template
    source = load_tasks("reasoning-gym", "train", args.seed)
    tasks = [source[index] for index in range(args.steps * args.prompts)]
    tool, clock = Tool(), _Clock()
    to_show, usage = args.show, Usage()
    step: dict[str, float] = {}

    class Timed(GRPOTrainer):  # type: ignore[misc]
        """GRPOTrainer that times its parts."""

        def _tokenize_prompts(self, prompts: list[Any]) -> Any:
            ids, *rest = super()._tokenize_prompts(prompts)
            assert ids == [policy.codec.prompt_ids(prompt) for prompt in prompts]
            return ids, *rest

        def _generate_single_turn(self, *given: Any, **named: Any) -> Any:
            with clock.on("generating"):
                return super()._generate_single_turn(*given, **named)

        def _generate(self, prompts: list[Any]) -> Any:
            answer = super()._generate(prompts)
            _, _, tool_mask, *_ = answer
            step["tokens"] = sum(map(sum, tool_mask)) / args.episodes
            return answer

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
            with clock.on("sampling"):
                return super()._generate_and_score_completions(inputs)

    def reward(
        completions: list[list[dict[str, Any]]],
        completion_ids: list[list[int]],
        index: list[int],
        **others: Any,  # TRL passes further arguments
    ) -> list[float]:
        nonlocal to_show
        rewards = [
            score(messages, tasks[i], ids[-1] in policy.codec.stop_ids)
            for messages, ids, i in zip(completions, completion_ids, index, strict=True)
        ]
        results = [sum(m["role"] == "tool" for m in messages) for messages in completions]
        ended = [r is not None for r in rewards]
        step.update(calls=sum(results) / len(results), answered=sum(ended) / len(ended))
        step["reward"] = sum(r or 0.0 for r in rewards) / len(rewards)
        for i in range(0, len(completions), args.group_size):
            if to_show > 0:
                to_show -= 1
                print(f"\n--- {tasks[index[i]].prompt}\n{tokenizer.decode(completion_ids[i])}")
                print(f"--- reference {tasks[index[i]].answer}, reward {rewards[i] or 0.0:g}")
        return [r or 0.0 for r in rewards]

    class Gate(TrainerCallback):  # type: ignore[misc]
        """Waits for the parent before each step, and sends the measured step after it."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            wait(parent)
            clock.reset()
            tool.failed, tool.seconds = 0, 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = clock.elapsed()
            parent.send(
                Step(
                    seconds=seconds,
                    sampling=clock.seconds["sampling"],
                    generating=clock.seconds["generating"],
                    tools=tool.seconds,
                    failed=tool.failed / args.episodes,
                    **step,
                    **usage.step(),
                )
            )

    with TemporaryDirectory() as directory:
        trainer = Timed(
            model=policy.model,
            processing_class=tokenizer,
            reward_funcs=reward,
            tools=[tool.code_interpreter],
            train_dataset=Dataset.from_list(
                [
                    {"prompt": [{"role": "user", "content": task.prompt}], "index": index}
                    for index, task in enumerate(tasks)
                ]
            ),
            callbacks=[Gate()],
            args=GRPOConfig(
                output_dir=directory,
                use_cpu=True,
                bf16=False,
                seed=args.seed,
                max_steps=args.steps,
                shuffle_dataset=False,
                num_generations=args.group_size,
                per_device_train_batch_size=args.micro_batch,
                gradient_accumulation_steps=args.episodes // args.micro_batch,
                max_completion_length=args.max_response_tokens,
                max_tool_calling_iterations=args.max_turns - 1,
                generation_kwargs={"max_new_tokens": args.max_turn_tokens},
                temperature=1.0,
                loss_type="dapo",
                beta=0.0,
                epsilon=0.2,
                epsilon_high=0.28,
                delta=10.0,
                learning_rate=args.learning_rate,
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=3,
                max_grad_norm=1.0,
                gradient_checkpointing=False,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
        )
        trainer.remove_callback(PrinterCallback)
        parent.send("ready")
        trainer.train()


def score(messages: list[dict[str, Any]], task: Task, stopped: bool) -> float | None:
    """The reward of a conversation; None when it did not end with an answer."""
    last = messages[-1]
    if last["role"] != "assistant" or last.get("tool_calls") or not stopped:
        return None
    return float(Reward().judge(last["content"], task, None)[1] >= 1.0)


class _Clock:
    """Seconds since the step began, and those spent in each of its parts."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.began = time.perf_counter()
        self.seconds = {"sampling": 0.0, "generating": 0.0}

    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    @contextlib.contextmanager
    def on(self, part: str) -> Any:
        began = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - began
