"""EncodedTests: LiveCodeBench's tests as published, decoded only when a program is judged.

The hidden tests are ``base64(zlib(pickle(text)))``, where the text is JSON. Decoded, those of the
whole benchmark take gigabytes, so tasks keep them encoded. Since reading a pickle can run any
program, only pickles that hold a single text are read.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from sandbox.judge import CallTest

Which = Literal["all", "public", "private"]
_BROKEN = (ValueError, AttributeError, IndexError, KeyError, TypeError)
"""What reading a broken pickle may raise, among others."""
_MAX_BYTES = 1 << 30
"""A decoded test file larger than this is refused."""


class _TextOnly(pickle.Unpickler):
    """Refuses every pickle that names a class or a function, as a harmful one must."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}; only a text may be in it")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside of it")


@dataclass(frozen=True, slots=True)
class EncodedTests:
    """The tests of one LiveCodeBench problem.

    ``public`` and ``private`` are the columns as published, ``function`` is the method of
    ``Solution`` that is called ("" for programs that read stdin), ``where`` is for errors.
    """

    where: str
    function: str
    public: str = field(repr=False)
    private: str = field(repr=False)
    which: Which = "all"

    def check(self) -> None:
        """Raise ValueError unless the public tests and the first private ones can be read."""
        self._cases("public_test_cases", self.public)
        if not self.private.lstrip().startswith("["):
            try:
                packed = base64.b64decode(self.private[:400], validate=True)
                if not zlib.decompressobj().decompress(packed, 16):
                    raise ValueError("it is empty")
            except (binascii.Error, zlib.error, ValueError) as error:
                raise self._unreadable("private_test_cases", error) from error

    def decode(self) -> list[CallTest]:
        """All tests that count, as calls of what ``livecodebench.harness`` defines."""
        cases: list[dict[str, Any]] = []
        if self.which != "private":
            cases += self._cases("public_test_cases", self.public)
        if self.which != "public":
            cases += self._cases("private_test_cases", self.private)
        if not cases:
            raise ValueError(f"{self.where}: the problem has no {self.which} tests")
        return [self._test(case) for case in cases]

    def _cases(self, column: str, encoded: str) -> list[dict[str, Any]]:
        try:
            text = encoded if encoded.lstrip().startswith("[") else decode_text(encoded)
            cases = json.loads(text)
            if not isinstance(cases, list) or not all(
                isinstance(case, dict) and {"input", "output"} <= case.keys() for case in cases
            ):
                raise ValueError("not a list of objects with 'input' and 'output'")
        except ValueError as error:
            raise self._unreadable(column, error) from error
        return cases

    def _test(self, case: dict[str, Any]) -> CallTest:
        if not self.function:
            return CallTest("printed", (case["input"],), case["output"])
        try:
            arguments = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
            expected = json.loads(case["output"])
        except ValueError as error:
            raise self._unreadable("a functional test", error) from error
        return CallTest("returned", (self.function, arguments), expected)

    def _unreadable(self, what: str, error: Exception) -> ValueError:
        return ValueError(f"{self.where}: cannot read {what}: {error}")


def decode_text(encoded: str) -> str:
    """The text in ``base64(zlib(pickle(text)))``."""
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(encoded, validate=True), _MAX_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("it is cut short, or larger than 1 GiB")
        value = _TextOnly(io.BytesIO(data)).load()
    except (zlib.error, pickle.UnpicklingError, EOFError, MemoryError, *_BROKEN) as error:
        raise ValueError(f"not base64 of zlib of a pickled text: {error}") from error
    if not isinstance(value, str):
        raise ValueError(f"the pickle holds a {type(value).__name__}, not a text")
    return value
