"""Task sources: data sets read from files or from a hub, each row a task.

``spec`` reads what ``tasks="gsm8k:PATH"`` means, ``rows`` reads files, ``layouts`` and the modules
beside it turn rows into tasks, ``rates`` filters them by difficulty, ``mixture`` combines sources.
``cleaner_env.tasks.load.load_tasks`` is the way in.
"""
