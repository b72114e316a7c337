"""Programs for the soak: those that mean harm, and innocent ones that would notice it."""

from __future__ import annotations

from .result import Status

HOSTILE = {
    "while True: pass": Status.TIMEOUT,
    "import time; time.sleep(99)": Status.TIMEOUT,
    "x = bytearray(10**10)": Status.MEMORY,
    "while True: print('x' * 1000)": Status.OUTPUT,
    "import ctypes; ctypes.string_at(0)": Status.SIGNAL,
    "import os; os._exit(7)": Status.ERROR,
    "import socket; socket.socket()": Status.ERROR,
    "open('/etc/shadow')": Status.ERROR,
    "open('leak', 'w').write('x'); open('/tmp/leak', 'w').write('x'); 1 / 0": Status.ERROR,
    "f = open('fill', 'wb')\nwhile True: f.write(bytes(10**6))": Status.ERROR,
    "import os\nwhile True: os.dup(0)": Status.ERROR,
    "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass": Status.TIMEOUT,
    "import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass": Status.TIMEOUT,
    "import os; os.closerange(0, 256); raise SystemExit(3)": Status.ERROR,
}

# Each takes what others may need: of the machine, of the user, or of the worker after it. What
# becomes of them is their own affair.
IN_FLIGHT = """
import array, os, socket, time
fds = [os.dup(1) for _ in range(30)]
try: fds += [os.memfd_create("x") for _ in range(20)]
except OSError: pass
for number in fds[30:]: os.write(number, bytes(2 << 20))
a, b = socket.socketpair()
a.setblocking(False)
try:
    while True: a.sendmsg([b"x"], [(1, 1, array.array("i", fds + [a.fileno(), b.fileno()]))])
except OSError: time.sleep(1.5)
"""
SYSTEM_V = """
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
while (key := libc.shmget(0, 1 << 20, 0o1600)) >= 0:
    page = libc.shmat(key, None, 0)
    ctypes.memset(page, 1, 1 << 20)
    libc.shmdt(ctypes.c_void_p(page))
"""
PIPES = """
import fcntl, os, time
while True:
    try: end = os.pipe()[1]
    except OSError: break
    try: fcntl.fcntl(end, 1031, 1 << 20)
    except OSError: pass
    os.set_blocking(end, False)
    try: os.write(end, bytes(1 << 20))
    except OSError: pass
time.sleep(0.2)
"""
WATCHES = """
import ctypes, fcntl, os, time
libc = ctypes.CDLL(None)
while libc.inotify_init() >= 0: pass
libc.io_setup(60_000, ctypes.byref(ctypes.c_ulong()))
timer = ctypes.c_void_p()
for _ in range(100_000):
    if libc.timer_create(0, None, ctypes.byref(timer)): break
os.closerange(3, 64)
file = open(os.__file__)
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
time.sleep(0.2)
"""
MEMORY = """
import os
for _ in range(8):
    if not os.fork(): break
for name in ("/tmp/a", "/dev/shm/a", "/tmp/b", "/dev/shm/b"):
    with open(name, "wb") as file:
        try: file.write(bytes(15 << 20))
        except OSError: pass
kept = bytearray(110 << 20)
"""
SIGNALS = """
import os, resource, signal
for number in range(-1, 20):
    try: os.kill(number, signal.SIGSTOP if number > 1 else signal.SIGCONT)
    except OSError: pass
    try: resource.prlimit(max(number, 0), resource.RLIMIT_NOFILE, (3, 3))
    except (OSError, ValueError): pass
os.sync()
os.nice(19)
"""
GREEDY = [
    IN_FLIGHT,
    SYSTEM_V,
    "import ctypes\nwhile ctypes.CDLL(None).semget(0, 32000, 0o1600) >= 0: pass",
    PIPES,
    WATCHES,
    MEMORY,
    SIGNALS,
    "#" + "x" * (40 << 20),
    "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()",
]

# With {number} in the place of a number, of which the program prints the double, and its files.
PLAIN = "import os; print({number} * 2, os.listdir())"
INNOCENT = [
    PLAIN,
    "x = bytearray(90 << 20); x[::4096] = bytes(len(x[::4096]))\n"
    "for name in '/tmp/1', '/tmp/2', '/dev/shm/1': open(name, 'wb').write(bytes(9 << 20))\n"
    + PLAIN,
    "import asyncio; asyncio.run(asyncio.to_thread(print, {number} * 2, []))",
    "import multiprocessing as m\n"
    "queue = m.Queue(); child = m.Process(target=queue.put, args=({number} * 2,)); child.start()\n"
    "print(queue.get(), []); child.join()",
    "import sys; sys.stderr.write('x' * 16_000)\n" + PLAIN,
    "import fcntl, os\nf = open('/tmp/lock', 'w'); fcntl.flock(f, 2); assert os.pipe()\n" + PLAIN,
]
