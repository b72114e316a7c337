"""Settings: bounds, parts, and what the arguments tell before they are parsed."""

import json
import shlex
from dataclasses import dataclass, fields, is_dataclass

import pytest

from cleaner_rl.compare.config import parse_compare
from cleaner_rl.config import (
    PRESETS,
    TrainConfig,
    given,
    parse_scaling,
    parse_train,
    train_command,
)
from cleaner_rl.doctor.config import parse_doctor
from cleaner_rl.errors import CheckpointError, UserError
from cleaner_rl.eval.config import EvalConfig, parse_eval
from cleaner_rl.settings import (
    Count,
    CountOrNone,
    EpisodeConfig,
    NotNegative,
    Positive,
    Share,
    UpdateConfig,
    change,
    changed,
    check_bounds,
    flat,
)
from cleaner_rl.sft.config import DemonstrationMix, parse_sft


@dataclass
class Bounded:
    some_number: Count = 1
    rest: CountOrNone = 0
    part: Share = 0.5
    weight: NotNegative = 0.0
    some_seconds: Positive = 1.0

    def __post_init__(self):
        check_bounds(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"some_number": 0}, "--some-number must be at least 1"),
        ({"rest": -1}, "--rest must not be negative"),
        ({"part": 1.5}, "--part must lie between 0 and 1"),
        ({"part": float("nan")}, "--part must lie between 0 and 1"),
        ({"weight": float("nan")}, "--weight must not be negative"),
        ({"some_seconds": 0.0}, "--some-seconds must be above 0"),
        ({"some_seconds": float("inf")}, "--some-seconds must be a finite number"),
        ({"weight": float("inf")}, "--weight must be a finite number"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_flag(values, message):
    Bounded()
    with pytest.raises(UserError, match=f"^{message}$"):
        Bounded(**values)


def test_a_part_with_its_own_prefix_is_refused_by_the_whole_flag():
    with pytest.raises(UserError, match=r"^--mix\.other-program must lie between 0 and 1$"):
        DemonstrationMix(other_program=1.5)


def test_bounds_that_may_be_switched_off_accept_infinity():
    UpdateConfig(grad_clip=float("inf"), dual_clip=float("inf"), tis_cap=float("inf"))


@pytest.mark.parametrize("config", [TrainConfig(), EvalConfig()])
def test_each_setting_is_in_one_part(config):
    parts = [getattr(config, field.name) for field in fields(config)]
    names = [field.name for field in fields(config)]
    names += [field.name for part in parts if is_dataclass(part) for field in fields(part)]
    assert len(names) == len(set(names)) == len(flat(config)) + sum(map(is_dataclass, parts))


def test_a_change_reaches_the_part_that_has_the_setting():
    config = change(TrainConfig(), steps=3, gamma=0.1, learning_rate=1.0)
    assert (config.steps, config.episode.gamma, config.update.learning_rate) == (3, 0.1, 1.0)
    assert sorted(changed(TrainConfig(), config)) == ["gamma", "learning_rate", "steps"]
    with pytest.raises(TypeError, match="gama"):
        change(config, gama=0.1)


def test_parts_are_checked_as_a_whole():
    with pytest.raises(UserError, match="--overlong-buffer must not exceed"):
        EpisodeConfig(max_response_tokens=8, overlong_buffer=9)
    config = change(TrainConfig(), max_response_tokens=9000, overlong_buffer=8000)
    assert config.episode.overlong_buffer == 8000


@pytest.mark.parametrize("name", PRESETS)
def test_a_written_config_is_flat_and_read_back(tmp_path, name):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(flat(PRESETS[name])))
    assert not any(isinstance(value, dict) for value in json.loads(path.read_text()).values())
    assert TrainConfig.load(path) == PRESETS[name]


def test_settings_that_do_not_exist_are_refused(tmp_path):
    (path := tmp_path / "config.json").write_text(json.dumps({"episode": {}, "gamma": 0.5}))
    with pytest.raises(CheckpointError, match=r"config\.json has settings .* \['episode'"):
        TrainConfig.load(path)


@pytest.mark.parametrize(
    "arguments",
    [["--eval_every", "3"], ["--eval-every", "3"], ["--eval_every=3"], ["--eval-every=3"]],
)
def test_what_is_given_is_seen_in_any_spelling(arguments):
    others = ["--steps", "9", "--no-stateful", "--seed=-1", "--preset"]
    assert given([*others, *arguments], "eval_every", "resume", "preset") == {"eval_every": "3"}


def test_the_last_of_several_values_is_given_and_no_abbreviation():
    assert given(["--preset", "a", "--preset=b"], "preset") == {"preset": "b"}
    assert given(["--pre", "a"], "preset") == {}


@pytest.mark.parametrize("parse", [parse_train, parse_doctor, parse_eval])
def test_an_empty_directory_to_resume_is_not_the_current_one(parse, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(flat(PRESETS["tiny"])))
    (tmp_path / "settings.json").write_text(json.dumps({"config": EvalConfig().settings()}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^give --resume a value$"):
        parse(["--resume", ""])


def test_a_missing_config_is_named_once(tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointError) as refused:
        TrainConfig.load(path)
    assert str(refused.value).startswith(f"cannot read {path}: No such file or directory; name ")


def test_the_command_of_a_run_gives_the_same_settings():
    config = change(
        PRESETS["smollm2"],
        run_dir="runs/here",
        model="a model's directory",
        wrong_reward=-1e-5,
        grad_clip=float("inf"),
        clip_low=0.1,
        strict_calls=False,
        partial_reward=True,
    )
    words = shlex.split(train_command(config))
    assert words[:3] == ["python", "-m", "cleaner_rl.train"]
    assert parse_train(words[3:]) == change(config, run_dir="")


def test_the_directory_of_a_run_means_its_newest_checkpoint(tmp_path):
    for step in (9, 20):
        (tmp_path / f"checkpoints/step-{step:06d}").mkdir(parents=True)
    settings = flat(change(PRESETS["tiny"], max_turns=7))
    (tmp_path / "config.json").write_text(json.dumps(settings))
    newest, model = str(tmp_path / "checkpoints/step-000020"), ["--model", str(tmp_path)]
    assert parse_train(model).model == newest
    assert parse_eval(model).model == newest
    assert parse_eval(model).episode.max_turns == 7
    assert parse_doctor(model).train.model == newest
    assert parse_compare(model)[0].train.model == newest
    assert parse_scaling(["--models", str(tmp_path)]).models == (newest,)
    assert parse_sft(["--base", str(tmp_path)]).base == newest
