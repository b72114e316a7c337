"""The system call filter of a program: what is denied, and how the kernel is told.

Two policies. BASE is for a program that lives in namespaces: it takes away what reaches deep into
the kernel, would leave the jail, or draws on what the machine has for all programs or all of a
user's together. STRICT, for a program without namespaces, also takes away new
processes, other programs, signals to others and changes of the metadata of files, because nothing
else stands between it and the rest of the machine.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass

from . import kernel
from .bpf import JUMP_AT_LEAST, JUMP_BITS, JUMP_EQUAL, Program

ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LAST_KNOWN = 462  # newer calls, and those of the x32 ABI, do not exist for programs
CHUNK = 4  # numbers compared one after the other, below that a binary search

# fmt: off
NUMBERS: dict[str, tuple[int | None, int | None]] = {  # x86_64, aarch64
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280),
    "chmod": (90, None), "chown": (92, None), "chroot": (161, 51), "clock_adjtime": (305, 266),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435),
    "delete_module": (176, 106), "execve": (59, 221), "execveat": (322, 281),
    "fanotify_init": (300, 262), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "fchown": (93, 55), "fchownat": (260, 54), "fcntl": (72, 25),
    "finit_module": (313, 273), "fork": (57, None), "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7), "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433),
    "futimesat": (261, None), "init_module": (175, 105), "inotify_init": (253, None),
    "inotify_init1": (294, 26), "io_setup": (206, 0), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioctl": (16, 29),
    "ioperm": (173, None), "iopl": (172, None), "ioprio_set": (251, 30), "kcmp": (312, 272),
    "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "kill": (62, 129), "lchown": (94, None), "lookup_dcookie": (212, 18),
    "lremovexattr": (198, 15), "lsetxattr": (189, 6), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "migrate_pages": (256, 238),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "move_pages": (279, 239), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "msgget": (68, 186), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241),
    "personality": (135, 92), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prctl": (157, 167),
    "prlimit64": (302, 261), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "removexattr": (197, 14), "request_key": (249, 218), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "semget": (64, 190),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "setpgid": (109, 154), "setpriority": (141, 140), "setsid": (112, 157),
    "settimeofday": (164, 170), "setxattr": (188, 5), "shmat": (30, 196), "shmget": (29, 194),
    "socket": (41, 198), "socketpair": (53, 199), "swapoff": (168, 225), "swapon": (167, 224),
    "sync": (162, 81), "syncfs": (306, 267), "syslog": (103, 116),
    "tgkill": (234, 131), "tkill": (200, 130), "umount2": (166, 39),
    "unshare": (272, 97), "userfaultfd": (323, 282), "utime": (132, None), "utimensat": (280, 88),
    "utimes": (235, None), "vfork": (58, None), "vhangup": (153, 58),
}
# fmt: on

NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone() knows
CLONE_THREAD = 0x00010000
AF_UNIX = 1
TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902
F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY = 8, 10, 15, 1024, 1026
F_SETPIPE_SZ = 1031
# On files that others open as well; and a user with too many pages in pipes gets small ones only.
FELT_BY_OTHERS = (F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ)
OWN_PID = -1  # stands for the pid of the program in the values of a check


@dataclass(frozen=True, slots=True)
class Check:
    """Decides by one argument, of which only the lower 32 bits count.

    bits: whether the argument has one of these bits, rather than being one of these values.
    then, otherwise: the errno of the call, 0 to let it pass.
    """

    argument: int
    values: tuple[int, ...]
    then: int
    otherwise: int
    bits: bool = False


Rule = int | Check  # an int: the call always ends with this errno
DENY, DONE = errno.EPERM, 0

# fmt: off
DEEP = (  # reaches deep into the kernel, or out of the jail
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "process_mrelease",
    "pidfd_getfd", "kcmp", "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount",
    "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "swapon", "swapoff", "unshare",
    "setns", "bpf", "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "userfaultfd", "add_key", "request_key", "keyctl", "kexec_load", "kexec_file_load",
    "init_module", "finit_module", "delete_module", "name_to_handle_at", "open_by_handle_at",
    "personality", "modify_ldt", "iopl", "ioperm", "lookup_dcookie", "reboot", "sethostname",
    "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "acct",
    "quotactl", "quotactl_fd", "syslog", "vhangup", "fanotify_init",
)
# What outlives a program (the kernel frees the pages some time after its death), and what the
# machine, or a user that programs share, has a limited amount of.
SHARED = (
    "shmget", "shmat", "semget", "msgget", "mq_open", "inotify_init", "inotify_init1", "io_setup",
    "memfd_secret",
)
OUTWARD = (  # other processes, other programs, metadata of files, what outlives the program
    "fork", "vfork", "execve", "execveat", "setsid", "setpgid", "tkill", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "pidfd_send_signal", "pidfd_open", "setpriority", "ioprio_set",
    "migrate_pages", "move_pages", "sched_setscheduler", "sched_setparam", "sched_setattr",
    "sched_setaffinity", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown",
    "fchownat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    "utime", "utimes", "futimesat", "utimensat", "mq_unlink",
)
# fmt: on
BASE: dict[str, Rule] = dict.fromkeys(DEEP + SHARED, DENY)
BASE |= {
    "socket": errno.EACCES,
    "socketpair": Check(0, (AF_UNIX,), 0, errno.EACCES),  # asyncio talks to itself through one
    "clone": Check(0, (NAMESPACES,), DENY, 0, bits=True),
    "clone3": errno.ENOSYS,  # a filter cannot see its flags; libc then falls back on clone
    "ioctl": Check(1, (TIOCSTI, TIOCLINUX), DENY, 0),
    "fcntl": Check(1, FELT_BY_OTHERS, DENY, 0),
    "sync": DONE,  # they would wait for the disks of the machine, and nothing kills them meanwhile
    "syncfs": DONE,
}

# In a jail, whose network and files are its own: multiprocessing talks through sockets with names.
LOCAL: dict[str, Rule] = {"socket": Check(0, (AF_UNIX,), 0, errno.EACCES)}
UNCOUNTED: dict[str, Rule] = {"memfd_create": errno.ENOSYS}  # no other limit sees their memory

ONLY_ONESELF = Check(0, (0, OWN_PID), 0, DENY)
STRICT: dict[str, Rule] = BASE | dict.fromkeys(OUTWARD, DENY)
STRICT |= {
    "clone": Check(0, (CLONE_THREAD,), 0, DENY, bits=True),  # a thread has no namespaces of its own
    "kill": Check(0, (OWN_PID,), 0, DENY),
    "tgkill": Check(0, (OWN_PID,), 0, DENY),
    "prlimit64": ONLY_ONESELF,
    "prctl": Check(0, (kernel.PR_SET_PDEATHSIG,), DENY, 0),
    "fcntl": Check(1, (F_SETOWN, F_SETOWN_EX, F_SETSIG, *FELT_BY_OTHERS), DENY, 0),
    "ioctl": Check(1, (TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP), DENY, 0),
}


# A cell of a session leaves its keeper alone, and the processes that hold the states before it.
OTHERS: dict[str, Rule] = {
    name: Check(0, (0,), 0, DENY)  # who: 0 is the caller; of setpriority: PRIO_PROCESS
    for name in (
        "prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
        "setpriority",
    )
}  # fmt: skip
OTHERS_PRIORITY: dict[str, Rule] = {"setpriority": Check(1, (0,), 0, DENY)}


def compile_filter(machine: str, policy: dict[str, Rule], pid: int = 0) -> bytes:
    """The filter as an array of struct sock_filter. ValueError for a machine without a table."""
    column = list(ARCHITECTURES).index(machine)
    numbered = ((NUMBERS[name][column], rule) for name, rule in policy.items())
    rules = [(number, rule) for number, rule in numbered if number is not None]
    program = Program()
    program.load(ARCHITECTURE_AT)
    program.branch(JUMP_EQUAL, ARCHITECTURES[machine], then="known")
    program.give(KILL_PROCESS)
    program.label("known")
    program.load(NUMBER_AT)
    program.branch(JUMP_AT_LEAST, LAST_KNOWN + 1, otherwise="search")
    program.give(ERRNO | errno.ENOSYS)
    program.label("search")
    emit_search(program, sorted(rules, key=lambda rule: rule[0]), pid)
    return program.assemble()


def base_filter(counted: bool, jailed: bool) -> bytes:
    """The filter of all tiers except "landlock".

    counted: whether a control group counts the memory of files that have no name.
    jailed: whether the program has a network of its own.
    """
    policy = BASE | (LOCAL if jailed else {}) | ({} if counted else UNCOUNTED)
    return compile_filter(os.uname().machine, policy)


def session_filters(scoped: bool) -> list[bytes]:
    """For the cells of a session, on top of the other.

    scoped: whether Landlock keeps the sockets apart of sessions that live in one worker.
    """
    machine = os.uname().machine
    first = OTHERS if scoped else OTHERS | {"socket": errno.EACCES}
    return [compile_filter(machine, policy) for policy in (first, OTHERS_PRIORITY)]


def strict_filter(counted: bool, pid: int) -> bytes:
    """For the program that runs as `pid`, the one process it may signal."""
    return compile_filter(os.uname().machine, STRICT if counted else STRICT | UNCOUNTED, pid)


def emit_search(program: Program, rules: list[tuple[int, Rule]], pid: int) -> None:
    """Binary search for the call's number, which is loaded."""
    if len(rules) > CHUNK:
        middle = len(rules) // 2
        right = f"from {rules[middle][0]}"
        program.branch(JUMP_AT_LEAST, rules[middle][0], otherwise=f"not {right}")
        program.jump(right)
        program.label(f"not {right}")
        emit_search(program, rules[:middle], pid)
        program.label(right)
        emit_search(program, rules[middle:], pid)
        return
    for number, _ in rules:
        program.branch(JUMP_EQUAL, number, then=f"call {number}")
    program.give(ALLOW)
    for number, rule in rules:
        program.label(f"call {number}")
        emit_rule(program, number, rule, pid)


def emit_rule(program: Program, number: int, rule: Rule, pid: int) -> None:
    if isinstance(rule, int):
        program.give(ERRNO | rule)
        return
    program.load(ARGUMENTS_AT + 8 * rule.argument)
    kind = JUMP_BITS if rule.bits else JUMP_EQUAL
    for value in rule.values:
        program.branch(kind, pid if value == OWN_PID else value, then=f"match {number}")
    program.give(ERRNO | rule.otherwise if rule.otherwise else ALLOW)
    program.label(f"match {number}")
    program.give(ERRNO | rule.then if rule.then else ALLOW)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(program: bytes) -> None:
    """Filter all further calls of this thread and of what it starts; needs no_new_privs."""
    header = _Program(len(program) // 8, program)
    mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
    returned = kernel.libc.prctl(PR_SET_SECCOMP, mode, ctypes.byref(header), 0, 0)
    kernel.check(returned, "prctl seccomp")


def missing() -> str:
    """Why this kernel takes no such filter, "" when it does. Changes nothing."""
    if os.uname().machine not in ARCHITECTURES:
        return f"no table of system calls for {os.uname().machine}"
    # Without a program to read, a kernel that knows filters says EFAULT.
    kernel.libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), None, 0, 0)
    number = ctypes.get_errno()
    return "" if number == errno.EFAULT else f"prctl seccomp: {os.strerror(number)}"
