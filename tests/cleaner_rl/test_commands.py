"""Commands: what starts them, what their arguments are checked with, and what --help says."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from cleaner_rl import commands
from cleaner_rl.commands import COMMANDS, run
from cleaner_rl.errors import UserError

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
SLOW = {"torch", "transformers", "matplotlib", "numpy", "gymnasium", "sympy", "cleaner_env"}
OF_THE_EXTRA = [name for name in COMMANDS if name != "view"]
"""The commands that need the training extra."""
WITHOUT = "import sys; sys.modules.update(dict.fromkeys({}))\nfrom cleaner_rl import commands\n"


def python(*arguments):
    """Exit status, output and errors of a new interpreter."""
    environment = os.environ | {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, text=True, capture_output=True
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(("flag", "status"), [("--help", 0), ("--no-such-flag", 2)])
@pytest.mark.parametrize("name", COMMANDS)
def test_arguments_are_checked_before_anything_slow_is_imported(name, flag, status):
    code, output, errors = python("-X", "importtime", "-m", f"cleaner_rl.{name}", flag)
    imported = set(re.findall(r"\| +(\w+)", errors))
    assert code == status and ("tyro" in imported) == (name in OF_THE_EXTRA)
    assert not imported & SLOW
    assert f"python -m cleaner_rl.{name}" in output + errors


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_parser_and_its_main(name):
    _, settings, module = COMMANDS[name]
    assert callable(getattr(import_module(f"cleaner_rl.{settings}"), f"parse_{name}"))
    assert callable(import_module(f"cleaner_rl.{module}").main)


@pytest.mark.parametrize("name", OF_THE_EXTRA)
def test_help_names_the_command_and_says_every_flag_in_two_lines(name):
    _, shown, _ = python("-m", "cleaner_rl", name, "--help")
    assert shown.startswith(f"usage: python -m cleaner_rl {name} ")
    texts = {}
    for row in re.findall(r"^│ (.*) │$", shown, re.MULTILINE):
        if row.startswith(("-", "PATH")):
            flag, _, text = row.strip().partition("  ")
            texts[flag] = [text.strip()] if text else []
        elif row.startswith("    "):
            texts[flag].append(row.strip())
    assert len(texts) > 4
    for flag, lines in texts.items():
        assert 1 <= len(lines) <= 2, (flag, lines)
        assert re.search(r"\((default: .+|required)\)$|and exit$", " ".join(lines)), (flag, lines)


def test_help_begins_with_the_basics_and_has_groups():
    _, shown, _ = python("-m", "cleaner_rl", "train", "--help")
    assert re.findall(r"─ ([a-z ]+) ─", shown) == [
        *("options", "episode options", "update options", "monitor options")
    ]
    assert re.findall(r"│ --([a-z-]+)", shown)[:5] == [
        *("preset", "model", "tasks", "steps", "run-dir")
    ]


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("train", "--lerning-rate", "--learning-rate"),
        ("eval", "--num-task", "--num-tasks"),
        ("scaling", "--rank", "--ranks"),
    ],
)
def test_a_mistyped_flag_is_answered_with_the_nearest_one(name, wrong, right, capsys):
    with pytest.raises(SystemExit) as exit:
        run(name, [wrong, "3"], "cleaner-rl")
    assert exit.value.code == 2
    assert f" {right} " in capsys.readouterr().err


def call_main(monkeypatch, capsys, *arguments, script="cleaner-rl"):
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(SystemExit) as exit:
        commands.main()
    return exit.value.code, *capsys.readouterr()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_commands_are_listed(arguments, monkeypatch, capsys):
    status, output, errors = call_main(monkeypatch, capsys, *arguments)
    assert (status, errors) == (0, "")
    assert output.startswith("usage: cleaner-rl COMMAND")
    assert re.findall(r"^  (\w+)  +\w.*", output, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(
    ("wrong", "remedy"), [("trian", "did you mean 'train'?"), ("zzz", "see cleaner-rl --help")]
)
def test_an_unknown_command_is_answered_with_the_nearest_one(wrong, remedy, monkeypatch, capsys):
    status, output, errors = call_main(monkeypatch, capsys, wrong)
    assert (status, output) == (2, "")
    assert errors == f"error: there is no command {wrong!r}; {remedy}\n"


def test_the_script_and_the_modules_are_the_same_command(monkeypatch, capsys):
    assert PYPROJECT["scripts"] == {"cleaner-rl": "cleaner_rl.commands:main"}
    refused = "error: --steps must be at least 1\n"
    assert call_main(monkeypatch, capsys, "train", "--steps", "0") == (2, "", refused)
    assert python("-m", "cleaner_rl", "train", "--steps", "0") == (2, "", refused)
    assert python("-m", "cleaner_rl.train", "--steps", "0") == (2, "", refused)


@pytest.mark.parametrize(
    ("missing", "name"), [*(("tyro", name) for name in OF_THE_EXTRA), ("torch", "scaling")]
)
def test_without_its_extra_a_command_says_so_in_a_sentence(missing, name):
    program = f"sys.argv[1:] = ['{name}']\ncommands.main()"
    status, output, errors = python("-c", WITHOUT.format([missing]) + program)
    assert (status, output) == (2, "")
    needed = f"needs the training extra ({missing} is missing): pip install -e '.[train]'"
    assert errors.splitlines()[-1] == f"error: cleaner-rl {name} {needed}"
    assert "Traceback" not in errors


def test_without_any_extra_the_commands_are_listed():
    program = WITHOUT.format([*SLOW, *commands._EXTRA]) + "sys.argv[1:] = []\ncommands.main()"
    status, output, errors = python("-c", program)
    assert (status, errors) == (0, "") and all(f"\n  {name} " in output for name in COMMANDS)


def test_what_the_extra_holds_is_what_is_named_as_missing():
    extra = {re.split("[>=]", wanted)[0] for wanted in PYPROJECT["optional-dependencies"]["train"]}
    assert extra - set(commands._EXTRA) == {"cleaner-rl[tasks]", "tokenizers"}
    assert set(commands._EXTRA) <= extra


@pytest.mark.parametrize("name", ["torch.no_such_part", "cleaner_rl.no_such_module", "other"])
def test_another_failed_import_is_not_taken_for_a_missing_extra(name, monkeypatch):
    def fail(_):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(commands, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        run("train", [], "cleaner-rl train")


@pytest.mark.parametrize(
    ("rank", "said"), [("0", "loading torch and transformers ...\n"), ("1", "")]
)
def test_a_command_says_what_it_loads_and_of_several_processes_one_does(
    rank, said, monkeypatch, capsys
):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setitem(COMMANDS, "train", ("", "config", "no_such_module"))
    with pytest.raises(ModuleNotFoundError):
        run("train", [], "cleaner-rl train")
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("name", "variables", "message"),
    [
        ("train", {"SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 processes"),
        ("train", {"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes"),
        ("eval", {"PMI_SIZE": "2"}, "mpiexec started 2 processes"),
        ("eval", {"WORLD_SIZE": "2"}, "start eval without torchrun"),
        ("train", {"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "4"}, ""),
        ("train", {"WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "4"}, ""),
        ("train", {"SLURM_STEP_NUM_TASKS": "1"}, ""),
    ],
)
def test_processes_that_do_not_know_each_other_are_refused(name, variables, message, monkeypatch):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(commands, "COMMANDS", {name: ("", "a", "b")})
    module = SimpleNamespace(main=lambda _: 0, **{f"parse_{name}": lambda *_: None})
    monkeypatch.setattr(commands, "import_module", lambda _: module)
    if message:
        with pytest.raises(UserError, match=message):
            run(name, [], f"cleaner-rl {name}")
    else:
        assert run(name, [], f"cleaner-rl {name}") == 0


def test_ctrl_c_during_an_import_that_hides_it_is_answered_in_a_word():
    hides = """
import os, signal, sys
from cleaner_rl import commands

def hide(name):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))
    except BaseException as error:
        raise ModuleNotFoundError("requirements not defined correctly") from error

commands.import_module = hide
sys.argv = ["cleaner-rl", "train"]
commands.main()
"""
    assert python("-c", hides) == (130, "", "interrupted\n")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
def test_after_the_imports_signals_are_handled_as_before(handler, monkeypatch):
    def main(arguments):
        return int(signal.getsignal(signal.SIGINT) is not handler)

    def load(name):
        kept = signal.getsignal(signal.SIGINT) is handler
        assert kept == (handler is signal.SIG_IGN)
        return SimpleNamespace(main=main, parse_train=lambda *_: None)

    before = signal.signal(signal.SIGINT, handler)
    try:
        monkeypatch.setattr(commands, "import_module", load)
        assert run("train", [], "cleaner-rl train") == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_preset_of_scaling_is_checked_with_the_other_arguments():
    with pytest.raises(UserError, match="unknown preset 'huge'"):
        run("scaling", ["--preset", "huge"], "cleaner-rl scaling")


def test_a_reader_that_stops_reading_is_no_error():
    program = "from cleaner_rl.errors import run_command\nrun_command(lambda: print('x' * 10**7))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
