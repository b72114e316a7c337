"""Command line: `python -m sandbox run FILE|-`, `doctor`, `bench` and `soak`."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from . import TIERS, IsolationUnavailable, Limits, Result, Sandbox, SandboxError
from .bench import bench
from .jail import find_bwrap
from .layers import describe
from .soak import Soak

OK, PROGRAM_FAILED, USAGE, SANDBOX_FAULT = 0, 1, 2, 3
DOCTOR_RUNS = 20


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return COMMANDS[options.command](options)
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return SANDBOX_FAULT


def parse(arguments: list[str] | None) -> argparse.Namespace:
    default = Limits()
    parser = argparse.ArgumentParser(
        prog="python -m sandbox",
        description="Run untrusted Python programs in isolation.",
        epilog="exit status: 0 the program succeeded, 1 it failed, 2 usage, 3 the sandbox failed",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="run one program")
    run_parser.add_argument("file", help="the program, - for standard input")
    add = run_parser.add_argument
    add("--wall", type=float, default=default.wall_s, help="seconds of real time (%(default)s)")
    add("--cpu", type=float, default=default.cpu_s, help="seconds of CPU time (%(default)s)")
    add("--memory", type=int, default=default.memory_mb, help="MiB of memory (%(default)s)")
    add("--output", type=int, default=default.output_bytes, help="bytes of output (%(default)s)")
    add("--processes", type=int, default=default.processes, help="processes (%(default)s)")
    add("--stdin", default="", metavar="TEXT", help="what the program reads from its input")
    add("--allow-weak", action="store_true", help="run without isolation where none works")
    commands.add_parser("doctor", help="report what isolation works here, and how fast it is")
    bench_parser = commands.add_parser("bench", help="compare its speed with that of new processes")
    add = bench_parser.add_argument
    add("--runs", type=int, default=200, help="programs per row (%(default)s)")
    add("--seconds", type=float, default=8.0, help="longest time per row (%(default)s)")
    soak_parser = commands.add_parser("soak", help="run many programs and check that nothing grows")
    add = soak_parser.add_argument
    add("--executions", "--programs", type=int, default=20_000, help="how many (%(default)s)")
    add("--hostile", action="store_true", help="more of them hostile, made to disturb the others")
    add("--workers", type=int, default=2, help="workers (%(default)s)")
    add("--kill-every", type=float, help="seconds between two kills (2; with --hostile 0: none)")
    options = parser.parse_args(arguments)
    if options.command == "soak" and options.kill_every is None:
        options.kill_every = 0.0 if options.hostile else 2.0
    for name in ("runs", "executions", "workers"):
        if getattr(options, name, 1) < 1:
            parser.error(f"--{name} must be at least 1")
    for name in ("seconds", "kill_every"):
        if not getattr(options, name, 0.0) >= 0:  # nor NaN
            parser.error(f"--{name.replace('_', '-')} must be 0 or more")
    if options.command == "run":
        try:
            options.limits = Limits(
                options.wall, options.cpu, options.memory, options.output, options.processes
            )
            options.code = read(options.file)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    return options


def read(file: str) -> str:
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    return data.decode("utf-8-sig")  # a mark at the beginning is no part of the program


def run(options: argparse.Namespace) -> int:
    with Sandbox(limits=options.limits, allow_weak=options.allow_weak) as sandbox:
        result = sandbox.run(options.code, stdin=options.stdin)
    show(result)
    return OK if result.ok else PROGRAM_FAILED


def show(result: Result) -> None:
    for stream, text in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    sys.stderr.write(result.traceback)
    if not result.ok and not result.traceback and not result.stderr:
        print(f"the program ended with exit status {result.exit_code}", file=sys.stderr)


def doctor(_: argparse.Namespace) -> int:
    notes = find_bwrap()[1]
    for note in notes:
        print(note)
    try:
        sandbox = Sandbox()
    except IsolationUnavailable as error:
        print("tier: none")
        print(error)
        return SANDBOX_FAULT
    with sandbox:
        if sandbox.bwrap:
            print(f"used: {sandbox.bwrap}")
        print(f"tier: {sandbox.tier} ({TIERS[sandbox.tier]})")
        for line in sandbox.tried:
            print(f"  not reached: {line}")
        print(*describe(sandbox.tier, sandbox.layers), sep="\n")
        times_ms = [timed_ms(sandbox) for _ in range(DOCTOR_RUNS)]
    print(
        f"latency of {DOCTOR_RUNS} empty programs: median {statistics.median(times_ms):.1f} ms, "
        f"fastest {min(times_ms):.1f} ms, slowest {max(times_ms):.1f} ms"
    )
    return OK


def timed_ms(sandbox: Sandbox) -> float:
    start = time.perf_counter()
    result = sandbox.run("")
    if not result.ok:
        raise SandboxError(f"an empty program ended as {result.status}: {result.traceback}")
    return (time.perf_counter() - start) * 1e3


def run_bench(options: argparse.Namespace) -> int:
    bench(options.runs, options.seconds)
    return OK


def run_soak(options: argparse.Namespace) -> int:
    with Sandbox(workers=options.workers) as sandbox:
        share = 0.15 if options.hostile else 0.05
        soak = Soak(sandbox, share, greedy=options.hostile)
        good = soak.run(options.executions, options.kill_every, print)
    print("every result right, nothing grew" if good else "FAILED")
    return OK if good else SANDBOX_FAULT


COMMANDS = {"run": run, "doctor": doctor, "bench": run_bench, "soak": run_soak}

if __name__ == "__main__":
    sys.exit(main())
