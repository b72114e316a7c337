"""Train with TRL's GRPOTrainer on episodes with SAAR: two steps of the bundled policy on a CPU.

For a model of your own, give GRPOTrainer its name, leave out ``system_prompt=None`` (which is for a
policy that was taught the tool), and see docs/integrations.md for what TRL does differently.
"""

from __future__ import annotations

import os
import tempfile
import warnings

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from trl import GRPOConfig, GRPOTrainer

from cleaner_env.integrations.trl import rollout_func
from cleaner_rl.models.policy import load_policy

warnings.simplefilter("ignore", FutureWarning)


def main() -> list[dict[str, float]]:
    """Train, and return what TRL logged at each step."""
    policy = load_policy("bundled", "cpu")
    with tempfile.TemporaryDirectory() as directory:
        config = GRPOConfig(
            output_dir=directory,
            use_cpu=True,
            bf16=False,
            max_steps=2,
            num_generations=4,
            per_device_train_batch_size=8,
            max_completion_length=256,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        rollout = rollout_func("reasoning-gym:basic_arithmetic", system_prompt=None)
        data = rollout.dataset(16)
        trainer = GRPOTrainer(
            policy.model,
            rollout.reward,
            config,
            data,
            processing_class=policy.tokenizer,
            rollout_func=rollout,
        )
        trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


if __name__ == "__main__":
    for row in main():
        print({key: row[key] for key in ("loss", "reward", "saar/failures", "saar/recovered")})
