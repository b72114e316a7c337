"""Write rows for verl that choose the agent loop with SAAR, and play one with verl's own worker.

A script takes the place of the inference server, so this runs on a CPU. In training, the same
worker asks servers on GPUs: docs/scaling.md has the command. Needs the extra verl, in an
environment without the extra train.
"""

import asyncio
import tempfile
from importlib.resources import files
from pathlib import Path

import datasets
from hydra import compose, initialize_config_dir
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.protocol import DataProto
from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
from verl.workers.rollout.replica import TokenOutput

from cleaner_env import HermesFormat, Task, verl_rows

LOOPS = Path(__file__).with_suffix(".yaml")
MODEL = files("cleaner_rl") / "bundled"  # only its tokenizer is read
TASKS = [Task("What is 12 factorial?", "479001600")]
CALL = HermesFormat().render
TURNS = [
    "Let me compute.\n" + CALL("print(math.factorial(12))"),
    "I forgot the import.\n" + CALL("import math\nprint(math.factorial(12))"),
    r"The answer is \boxed{479001600}.",
]


class ScriptedServer:
    """In place of verl's client of inference servers."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.turns = iter(TURNS)

    async def generate(self, request_id, *, prompt_ids, sampling_params):
        ids = self.tokenizer(next(self.turns))["input_ids"] + [self.tokenizer.eos_token_id]
        return TokenOutput(token_ids=ids, log_probs=[-0.5] * len(ids))


def main(directory: str) -> DataProto:
    """Write the parquet file to the directory and play its first row."""
    rows = f"{directory}/train.parquet"
    datasets.Dataset.from_list(list(verl_rows(TASKS))).to_parquet(rows)
    with initialize_config_dir(str(files("verl.trainer") / "config"), version_base=None):
        config = compose(
            "ppo_trainer",
            [
                f"actor_rollout_ref.model.path={MODEL}",
                "actor_rollout_ref.rollout.name=vllm",
                f"actor_rollout_ref.rollout.agent.agent_loop_config_path={LOOPS}",
                f"+data.cache_dir={directory}",
                "data.max_prompt_length=768",
                "data.max_response_length=8192",
            ],
        )
    worker = AgentLoopWorker(config, None)
    worker.llm_client = ScriptedServer(worker.tokenizer)
    data = RLHFDataset(rows, worker.tokenizer, config.data)
    batch = DataProto.from_single_dict(collate_fn([data[0]]))
    output = asyncio.run(worker.generate_sequences(batch))
    response, mask = output.batch["responses"][0], output.batch["response_mask"][0].bool()
    print("verl trains these tokens of the purified trajectory:")
    print(worker.tokenizer.decode(response[mask]))
    counts = {
        name: int(output.non_tensor_batch[name][0]) for name in ("calls", "failures", "recovered")
    }
    print(f"reward: {output.batch['rm_scores'].sum().item()}, {counts}")
    return output


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(directory)
