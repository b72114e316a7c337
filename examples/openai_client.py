"""Play an episode with the official openai client: calls with ids both ways, SAAR in between.

    python examples/openai_client.py [URL MODEL]

With a server's URL (vLLM, SGLang, llama.cpp, a hosted API: the key is OPENAI_API_KEY), its model
plays; without one, a script answers on this machine. Needs ``pip install openai``.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from openai import OpenAI

from cleaner_env import CodeToolEnv, Episode, SAARWrapper
from cleaner_env.chat import ServerFormat, action_from_openai, openai_messages, tools_schema

TASK = {"prompt": "What is 12 factorial?", "answer": "479001600"}


def play(client: OpenAI, model: str, task: dict[str, str]) -> Episode:
    """One episode: the server reads the calls itself and never sees our text format."""
    env = SAARWrapper(CodeToolEnv(max_turns=8, format=ServerFormat(max_calls=4)))
    _, info = env.reset(options={"task": task})
    over = False
    while not over:
        answer = client.chat.completions.create(
            model=model, messages=openai_messages(info), tools=tools_schema()
        )
        _, _, terminated, truncated, info = env.step(action_from_openai(answer))
        over = terminated or truncated
    env.close()
    return env.episode


class Script(BaseHTTPRequestHandler):
    """In place of a model: forgets the import, adds it after the error, and gives the answer."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = asked["messages"][-1]
        if last["role"] != "tool":
            message = self.call("Let me compute.", "print(math.factorial(12))")
        elif "NameError" in last["content"]:
            message = self.call("I forgot it.", "import math\nprint(math.factorial(12))")
        else:
            message = {"role": "assistant", "content": rf"\boxed{{{last['content']}}}"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "script"}
        data = json.dumps({**body, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def call(self, text: str, code: str) -> dict[str, object]:
        """A message with a call."""
        function = {"name": "code_interpreter", "arguments": json.dumps({"code": code})}
        calls = [{"id": "call_1", "type": "function", "function": function}]
        return {"role": "assistant", "content": text, "tool_calls": calls}

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main(url: str | None = None, model: str = "script") -> Episode:
    """Play with the server, or with the script."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        script = {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "none"}
        with OpenAI(**script if url is None else {"base_url": url}) as client:
            episode = play(client, model, TASK)
        server.shutdown()
    print(f"reward {episode.reward:g}, rollbacks {episode.stats.triggered}")
    for turn in episode.turns:
        print(repr(turn.text))
    return episode


if __name__ == "__main__":
    main(*sys.argv[1:])
