"""The memory and traffic of ranks, by formula, and the table of them."""

import pytest

from cleaner_rl.errors import UserError
from cleaner_rl.models.memory import ModelShape
from cleaner_rl.scaling import StepShape, main, rank_costs

SHAPE = ModelShape(
    parameters=1000,
    layers=2,
    hidden=4,
    queries=4,
    keys=2,
    intermediate=8,
    vocabulary=10,
    normed_queries=False,
)
STEP = StepShape(episodes=8, tokens=100, pack_tokens=200, updates=1, context=50)


def test_state_is_shared_and_the_copy_is_not():
    one, four = (rank_costs(SHAPE, STEP, "float32", ranks) for ranks in (1, 4))
    assert (one.state, four.state) == (16_000, 4_000)
    assert (one.copy, four.copy) == (0, 4_000)
    assert (one.gathered, one.traffic) == (0, 0)


def test_one_rank_in_half_precision_holds_a_copy_and_what_autocast_casts():
    costs = rank_costs(SHAPE, STEP, "bfloat16", 1)
    assert (costs.state, costs.copy, costs.gathered) == (16_000, 2_000, 2_000)


def test_traffic_is_what_the_passes_gather_and_the_copy():
    costs = rank_costs(SHAPE, STEP, "float32", 2)
    assert costs.rows == 2  # 800 tokens in rows of 200 on two ranks
    # Twice the weights and once the gradients for each row, the copy once, half of it each.
    assert costs.traffic == (2 * 3 * 4000 + 4000) // 2


def test_several_updates_take_a_pass_more():
    costs = rank_costs(SHAPE, StepShape(8, 100, 200, 2, 50), "float32", 2)
    assert costs.traffic == (2 * 4 * 4000 + 4000) // 2


def test_the_table_has_a_line_for_each_model_and_number(capsys):
    assert main(["--models", "qwen3-0.6b", "bundled", "--ranks", "1", "8"]) == 0
    out = capsys.readouterr().out
    assert out.count("| qwen3-0.6b |") == out.count("| bundled |") == 2
    assert "at most 61 programs for 244 s" in out


def test_no_ranks_is_refused():
    with pytest.raises(UserError, match="--ranks takes one or more numbers"):
        main(["--ranks", "0"])
