"""When memory runs out, the error names the setting to change."""

import pytest
import torch

from cleaner_rl.errors import MemoryLimitError
from cleaner_rl.models.memory import memory_errors

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("phase", "flag"), [("sampling", "--sample-batch"), ("learning", "--pack-tokens")]
)
@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("tried 2 GiB\nmore")])
def test_the_flag_of_the_phase_is_named(phase, flag, error):
    match = f"on cpu while {phase}: lower {flag}"
    with pytest.raises(MemoryLimitError, match=match), memory_errors(phase, CPU):
        raise error


def test_torchs_own_cpu_allocator_is_understood():
    with pytest.raises(MemoryLimitError, match="while learning"), memory_errors("learning", CPU):
        torch.empty(2**55, dtype=torch.float32)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("learning", CPU):
        raise RuntimeError("shapes do not fit")
