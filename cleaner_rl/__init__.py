"""The compact GRPO trainer: policy, sampling, rollout, packing, loss, training, evaluation."""
