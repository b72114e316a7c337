"""What runs inside the jail: the zygote, and what it forks for every program and every session.

Only this directory of the package is visible there, as a package of its own named "jailed", so it
imports nothing of the rest. It speaks with the host over one SOCK_SEQPACKET socket, one JSON object
a message; behind the object of a program comes, after a line feed, its source when that is short:

    host -> zygote  {"op": "run", "id", "wall_s", "cpu_s", "memory_mb", "processes", "source_fd"}
                    with the descriptors of stdout, stderr, the report, and of the source and the
                    input where they come as files; {"op": "kill", "id"};
                    {"op": "session", "id", "cpu_s", "memory_mb", "processes"} with the socket over
                    which the keeper of the session will speak (see keeper.py)
    zygote -> host  {"event": "ready"} | {"event": "broken", "kind", "why"}           once
                    {"id", "event": "started"}, unless programs have their own namespaces,
                    {"id", "event": "ended", "status", "timed_out", "wall_s", "cpu_s", "peak_mb"} |
                    {"id", "event": "fault", "why"}                                   per run

A program starts only after its process has shut its own door: namespaces, mounts, limits and
privileges. A failure before that is ours, and the program has no part in telling the two apart.
The report is text for people (error class and traceback); what it says never makes a run ok.
"""
