"""What runs inside the jail: the zygote, and the child it forks for every execution.

Only this directory of the package is visible there, as a package of its own named "jailed", so it
imports nothing of the rest. It speaks with the host over one SOCK_SEQPACKET socket, one JSON object
a message:

                    {"id", "event": "started"},
                    {"id", "event": "ended", "status", "wall_s", "cpu_s", "peak_mb"} |
                    {"id", "event": "fault", "why"}                                   per run

"started" is sent only after the child has shut its own door: namespaces, mounts, limits and
privileges. A failure before that is ours, and the program has no part in telling the two apart.
The report is text for people (error class and traceback); what it says never makes a run ok.
"""
