"""``python -m cleaner_rl``: the commands."""

from cleaner_rl.commands import main

main()
