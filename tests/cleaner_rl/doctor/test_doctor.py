"""The doctor: every check finds the fault it is meant to find."""

import copy
import json
import time
from dataclasses import replace

import pytest
from rich.console import Console
from scripted import call

from cleaner_env import Sandbox, SandboxError, Task
from cleaner_env.chat import ChatCodec
from cleaner_env.rewards import Reward, Scorer
from cleaner_env.token_samples import purified_sample
from cleaner_rl.config import PRESETS
from cleaner_rl.doctor import tasks as task_checks
from cleaner_rl.doctor.__main__ import CHECKS, main
from cleaner_rl.doctor.config import DoctorConfig, parse_doctor
from cleaner_rl.doctor.machine import check_attention, check_memory, check_model, check_sandbox
from cleaner_rl.doctor.preview import (
    check_trained_tokens,
    episode_segments,
    scripted_episode,
    show_segments,
)
from cleaner_rl.doctor.subject import Finding, Subject, run_checks
from cleaner_rl.doctor.tasks import check_grader, check_prompts, check_tasks
from cleaner_rl.doctor.text import check_format, check_round_trip, check_template
from cleaner_rl.errors import UserError
from cleaner_rl.settings import change, flat

TASK = Task("What is 6*7?", "42")


@pytest.fixture
def subject(toy_policy):
    """Makes a subject of the toy policy, with another chat template or other settings."""

    def make(template=None, tasks=(TASK,), **config):
        train = change(PRESETS["tiny"], system_prompt="none", **config)
        made = Subject(DoctorConfig(train=train))
        made.tokenizer = copy.deepcopy(toy_policy.tokenizer)
        if template is not None:
            made.tokenizer.chat_template = template
        made.policy = replace(toy_policy, tokenizer=made.tokenizer)
        made.model_config = toy_policy.model.config
        made.tasks = list(tasks)
        return made

    return make


def template(message, before="", after=""):
    """A ChatML template that renders messages in its own way."""
    return (
        before
        + "{%- for m in messages -%}"
        + message
        + "{%- endfor -%}"
        + after
        + "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )


PLAIN = "{{ '<|im_start|>' + m.role + '\n' + (m.content or '') + '<|im_end|>\n' }}"
THINKLESS = (
    "{%- set c = m.content or '' -%}"
    "{%- if m.role == 'assistant' and not loop.last and '</think>' in c -%}"
    "{%- set c = c.split('</think>')[-1] -%}{%- endif -%}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}"
)
LLAMA_CALLS = (
    "{%- if m.tool_calls -%}{%- set f = m.tool_calls[0].function -%}"
    '{{ \'<|im_start|>assistant\n{"name": "\' + f.name + \'", "parameters": \' }}'
    "{{ f.arguments | tojson }}{{ '}<|im_end|>\n' }}{%- else -%}" + PLAIN + "{%- endif -%}"
)


def test_the_bundled_policy_passes(capsys):
    assert main(["--num-tasks", "24"]) == 0
    out = capsys.readouterr().out
    assert "11 ok, 0 warnings, 0 failed" in out
    assert "\x1b" not in out


def test_json_says_the_same(capsys):
    assert main(["--num-tasks", "4", "--json", "--no-weights"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and [check["name"] for check in report["checks"]] == list(CHECKS)
    assert {check["status"] for check in report["checks"]} == {"ok"}
    assert report["config"]["model"] == "bundled" and "torch" in report["made_with"]


def test_a_missing_model_is_reported_once(tmp_path, capsys):
    assert main(["--model", str(tmp_path / "nowhere"), "--num-tasks", "4"]) == 1
    out = capsys.readouterr().out
    assert out.count("there is no directory") == 1
    assert "given under 'model'" in out
    assert "ok       grader" in out


def test_a_check_that_crashes_fails_and_stops_no_other():
    def crash(_):
        raise RuntimeError("boom")

    findings = run_checks({"one": crash, "two": lambda _: Finding("ok", "well")}, None)
    assert findings["one"].status == "failed" and "RuntimeError: boom" in findings["one"].text
    assert findings["two"].status == "ok"


def test_settings_are_those_of_training():
    assert parse_doctor(["--preset", "qwen3-4b"]).train == PRESETS["qwen3-4b"]
    config = parse_doctor(["--preset", "qwen3-4b", "--pack-tokens", "9", "--num-tasks", "3"])
    train = change(PRESETS["qwen3-4b"], pack_tokens=9)
    assert config == DoctorConfig(num_tasks=3, train=train)
    with pytest.raises(UserError, match="unknown preset"):
        parse_doctor(["--preset", "huge"])


def test_the_help_lists_the_settings_of_the_training_too(capsys):
    with pytest.raises(SystemExit):
        parse_doctor(["--help"])
    shown = capsys.readouterr().out
    flags = ("--num-tasks", "--model", "--tasks", "--preset", "--pack-tokens", "--code-seconds")
    assert all(f"{flag} " in shown for flag in flags)


def test_a_resumed_run_is_checked_with_its_own_settings(tmp_path):
    config = change(PRESETS["tiny"], max_response_tokens=99)
    (tmp_path / "config.json").write_text(json.dumps(flat(config)))
    parsed = parse_doctor(["--resume", str(tmp_path)])
    assert parsed.train == replace(config, resume=str(tmp_path))


def test_a_setting_that_neither_doctor_nor_training_has_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_doctor(["--num-taks", "3"])
    assert "--num-taks" in capsys.readouterr().err


# Chat template


def test_a_template_that_keeps_earlier_text_passes(subject):
    assert check_template(subject()).status == "ok"
    assert check_template(subject(template(PLAIN))).status == "ok"


def test_a_template_that_strips_think_blocks_is_noticed(subject):
    finding = check_template(subject(template(THINKLESS)))
    assert finding.status == "warning"
    assert list(finding.details) == ["think blocks"]
    assert "<think>" in finding.text


DROPPING = template("{%- if m.role != 'tool' -%}" + PLAIN + "{%- endif -%}")


def test_a_template_that_drops_tools_gets_their_output_from_the_user(subject):
    finding = check_template(subject(DROPPING))
    assert finding.status == "warning"
    assert "drops or repeats messages" in finding.text and "message of the user" in finding.text


def test_a_role_that_the_template_does_not_take_is_refused_with_one_that_it_takes(subject):
    broken = subject(DROPPING, tool_role="tool")
    finding = run_checks({"template": check_template}, broken)["template"]
    assert finding.status == "failed" and finding.text.endswith("use --tool-role user")
    assert check_template(subject(DROPPING, tool_role="user")).status == "ok"


def test_a_prompt_that_opens_a_thought_is_shown(subject):
    finding = check_template(
        subject(
            template(PLAIN).replace("assistant\n' }}{%- endif", "assistant\n<think>\n' }}{%- endif")
        )
    )
    assert "inside a thought at the first turn and after a program's output" in finding.text
    assert "thought" not in check_template(subject()).text


# Round trip


def test_a_byte_level_tokenizer_passes(subject):
    assert check_round_trip(subject()).status == "ok"


def test_a_normalising_tokenizer_is_noticed(subject):
    from tokenizers import normalizers

    subject = subject()
    subject.tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    finding = check_round_trip(subject)
    assert finding.status == "warning" and "do not survive" in finding.text


def test_a_lower_casing_tokenizer_is_refused(subject):
    from tokenizers import normalizers

    subject = subject()
    subject.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\t", " ")
    finding = check_round_trip(subject)
    assert finding.status == "failed" and "a program does not survive" in finding.text


def test_a_forgeable_special_token_is_refused(subject):
    subject = subject()
    subject.codec = copy.copy(ChatCodec(subject.tokenizer))
    subject.codec.plain_ids = lambda text: subject.tokenizer(text)["input_ids"]
    finding = check_round_trip(subject)
    assert finding.status == "failed" and "forge" in finding.text


# Tool format


def test_a_hermes_template_is_read(subject):
    finding = check_format(subject())
    assert finding.status == "ok" and "hermes" in finding.text


def test_a_template_without_tools_is_noticed(subject):
    finding = check_format(subject(template(PLAIN)))
    assert finding.status == "warning" and "no tool format of its own" in finding.text


def test_a_template_of_another_format_is_refused(subject):
    finding = check_format(subject(template(LLAMA_CALLS)))
    assert finding.status == "failed"
    assert '"parameters"' in finding.text and "hermes" in finding.text


OTHER_CALLS = LLAMA_CALLS.replace('"name": ', "call ").replace('"parameters"', "with")


def test_a_template_of_an_unknown_format_is_refused_until_a_format_is_chosen(subject):
    finding = check_format(subject(template(OTHER_CALLS)))
    assert finding.status == "failed" and "use --tool-format fenced" in finding.remedy
    assert check_format(subject(template(OTHER_CALLS), tool_format="fenced")).status == "warning"


# Trained tokens


def test_the_preview_says_where_every_token_comes_from(subject):
    subject = subject()
    episode = scripted_episode(subject)
    segments = episode_segments(subject, episode)
    assert [segment.kind for segment in segments] == [
        *("environment", "sampled", "grafted", "environment", "sampled"),
    ]
    prompt, reasoning, fixed, answered, answer = (segment.text for segment in segments)
    assert prompt.endswith("<|im_start|>assistant\n")
    assert reasoning == "I multiply.\n"
    assert fixed == call("seven = 7\nprint(6 * seven)", "") + "<|im_end|>"
    assert "\n42\n" in answered
    assert answer == r"The answer is \boxed{42}.<|im_end|>"
    prompt_ids = subject.codec.prompt_ids(episode.prompt)
    sample = purified_sample(episode, prompt_ids, subject.codec.observation_ids)
    assert sum(segment.tokens for segment in segments) == len(sample.ids)


def test_grafted_tokens_left_out_of_the_loss_are_marked(subject, capsys):
    finding = check_trained_tokens(subject(grafted="mask"))
    assert finding.status == "ok"
    (grafted,) = (s for s in finding.details["segments"] if s.kind == "grafted")
    assert not grafted.trained
    show_segments(finding.details["segments"], Console())
    assert "grafted (left out)" in capsys.readouterr().out


def test_the_preview_is_in_colour_on_a_terminal(subject, capsys):
    segments = check_trained_tokens(subject()).details["segments"]
    show_segments(segments, Console(force_terminal=True, color_system="standard"))
    out = capsys.readouterr().out
    assert "\x1b[32mI multiply." in out and "\x1b[35m<tool_call>" in out


def test_a_loss_that_counts_tool_output_is_refused(subject, monkeypatch):
    from cleaner_rl.doctor import preview as module

    def careless(*args):
        sample, *more = real(*args)
        return [replace(sample, mask=(False, *[True] * (len(sample) - 1))), *more]

    real = module.episode_samples
    monkeypatch.setattr(module, "episode_samples", careless)
    finding = check_trained_tokens(subject())
    assert finding.status == "failed" and "the loss would count" in finding.text


# Tasks


def test_references_are_graded(subject):
    assert check_tasks(subject()).details["families"] == {"custom": 1}
    assert check_grader(subject()).status == "ok"


def verdicts(monkeypatch, score):
    scorer = Scorer(lambda answer, task, runner: score(answer, task))
    monkeypatch.setattr(task_checks, "reward_of", lambda config: Reward(scorer=scorer))


def test_programs_are_judged_in_a_sandbox(subject):
    entry = {"tests": [{"input": "3\n", "output": "6\n"}], "seconds": 0.5}
    task = Task("Double it.", "print(int(input()) * 2)", reward="code", entry=entry)
    assert check_grader(subject(tasks=[task])).status == "ok"


def test_a_reference_that_its_own_reward_rejects_is_noticed(subject, monkeypatch):
    verdicts(monkeypatch, lambda answer, task: float(answer == "42" and task.family == "right"))
    finding = check_grader(subject(tasks=[replace(TASK, family="right"), TASK]))
    assert finding.status == "warning" and "1 of 2 reference answers" in finding.text


def test_a_reward_that_accepts_anything_is_refused(subject, monkeypatch):
    verdicts(monkeypatch, lambda answer, task: 1.0)
    finding = check_grader(subject(tasks=[TASK]))
    assert finding.status == "failed" and "no such answer" in finding.text


def test_a_grader_that_hangs_is_refused(subject, monkeypatch):
    def slow(answer, task):
        time.sleep(0.0 if answer == task.answer else 5.0)
        return float(answer == task.answer)

    verdicts(monkeypatch, slow)
    subject = subject(tasks=[TASK])
    subject.doctor = replace(subject.doctor, grader_seconds=0.1)
    began = time.monotonic()
    finding = check_grader(subject)
    assert finding.status == "failed" and "after 0.1 s" in finding.text
    assert time.monotonic() - began < 2


def test_a_reward_of_ones_own_is_checked_like_the_built_in_ones(subject, reward_module):
    module = reward_module("def judge(answer, task): return 1.0 if answer == task.answer else None")
    checked = subject(tasks=[TASK], reward=f"{module}:judge")
    finding = check_grader(checked)
    assert finding.status == "failed"
    assert f"scorer {module}:judge returned None for the answer 'no such answer'" in finding.text


@pytest.mark.parametrize(
    ("prompts", "limit", "status"),
    [((5, 6), 60, "ok"), ((5, 90), 60, "warning"), ((90, 90), 60, "failed")],
)
def test_long_prompts_are_counted(subject, prompts, limit, status):
    tasks = [Task("9" * n, "1") for n in prompts]
    finding = check_prompts(subject(tasks=tasks, max_prompt_tokens=limit))
    assert finding.status == status
    assert finding.details["over"] == sum(n > limit for n in prompts)


def test_a_context_that_is_too_short_is_refused(subject):
    finding = check_prompts(subject(max_response_tokens=2000))
    assert finding.status == "failed" and "attends to 1024" in finding.text
    model = run_checks({"model": check_model}, subject(max_response_tokens=2000))["model"]
    assert model.status == "failed" and "--max-response-tokens" in model.text


# Machine


def test_a_sandbox_is_timed(subject, sandbox):
    finding = check_sandbox(subject())
    assert finding.details["tier"] == sandbox.tier and finding.details["median_ms"] > 0


def test_no_sandbox_is_refused(subject, monkeypatch):
    def none(*_, **__):
        raise SandboxError("no isolation here")

    monkeypatch.setattr(Sandbox, "__init__", none)
    finding = check_sandbox(subject())
    assert finding.status == "failed" and "no isolation here" in finding.text
    assert "sandbox doctor" in finding.remedy


def test_a_training_that_does_not_fit_is_noticed(subject):
    assert check_memory(subject()).status == "ok"
    finding = check_memory(subject(pack_tokens=10**10))
    assert finding.status == "warning" and "--pack-tokens" in finding.remedy


def test_attention_is_named(subject):
    assert "sdpa" in check_attention(subject()).text
