"""Chat templates for tests: the structure of published ones, as short as it can be."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

CHATML = """\
{%- for m in messages -%}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""

_CHATML_WITH_TOOLS = """\
{%%- if tools -%%}{{- %r -}}{%%- endif -%%}
{%%- for m in messages -%%}
{%%- if m.role == 'tool' -%%}
{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' -}}
{%%- else -%%}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}
{%%- endif -%%}
{%%- endfor -%%}
{%%- if add_generation_prompt -%%}{{- '<|im_start|>assistant\n%s' -}}{%%- endif -%%}"""

HERMES = _CHATML_WITH_TOOLS % (
    '<tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call>',
    "",
)
QWEN3_CODER = _CHATML_WITH_TOOLS % (
    "<tool_call>\n<function=f>\n<parameter=p>\nvalue\n</parameter>\n</function>\n</tool_call>",
    "",
)
QWEN3_CODER_THINKING = QWEN3_CODER.replace("assistant\n'", "assistant\n<think>\n'")
GLM = _CHATML_WITH_TOOLS % (
    '<tool_call>name\n<arg_key>key</arg_key>\n<arg_value>value</arg_value>\n</tool_call> "name" '
    '"arguments"',
    "",
)

LLAMA3 = """\
{{- '<|begin_of_text|>' -}}
{%- if tools -%}{{- 'Respond with {"name": name, "parameters": dictionary}.' -}}{%- endif -%}
{%- for m in messages -%}
{%- if m.role in ['tool', 'ipython'] -%}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + (m.content | tojson) + '<|eot_id|>' -}}
{%- else -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) -}}
{{- '<|eot_id|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
{%- endif -%}"""
LLAMA3_TOKENS = (
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
)

MISTRAL = """\
{%- if messages[0].role == 'system' -%}
{%- set system, messages = messages[0].content, messages[1:] -%}
{%- endif -%}
{{- '<s>' -}}
{%- for m in messages -%}
{%- if m.role == 'user' -%}
{{- '[INST] ' + (system + '\n\n' if loop.last and system is defined else '') -}}
{{- m.content + '[/INST]' -}}
{%- elif m.role == 'assistant' -%}
{{- ' ' + m.content | trim + '</s>' -}}
{%- elif m.role == 'tool' -%}
{{- '[TOOL_RESULTS] {"content": ' + m.content + ', ' -}}
{%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 -%}
{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') -}}
{%- endif -%}
{{- '"call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' -}}
{%- endif -%}
{%- endfor -%}"""
MISTRAL_TOKENS = ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")

HARMONY = """\
{%- set last = namespace(name=none) -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{%- if last.name is none -%}{{- raise_exception('nobody called the tool') -}}{%- endif -%}
{{- '<|start|>functions.' + last.name + ' to=assistant<|channel|>commentary<|message|>' -}}
{{- (m.content | tojson) + '<|end|>' -}}
{%- elif m.tool_calls -%}
{%- set last.name = m.tool_calls[0].function.name -%}
{{- '<|start|>assistant to=functions.' + last.name + '<|channel|>commentary json<|message|>' -}}
{{- (m.tool_calls[0].function.arguments | tojson) + '<|call|>' -}}
{%- elif m.role == 'assistant' -%}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' -}}
{%- else -%}
{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}"""
HARMONY_TOKENS = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>"),
    *("<|constrain|>", "<|return|>", "<|call|>"),
)


def published(name: str) -> str:
    """A model's own template as the ``trl`` package carries it, which is not imported for that."""
    return (_published() / f"{name}.jinja").read_text(encoding="utf-8")


def published_names() -> list[str]:
    """The names of all templates that need no pictures, without trl's variants for training."""
    left_out = ("training", "_vl", "idefics", "llava", "smolvlm")
    names = sorted(path.stem for path in _published().glob("*.jinja"))
    return [name for name in names if not any(part in name for part in left_out)]


def _published() -> Path:
    (package,) = find_spec("trl").submodule_search_locations
    return Path(package, "chat_templates")
