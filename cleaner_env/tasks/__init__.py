"""Task sources: data sets from files or from a hub, each row a task, and generators.

``load.load_tasks`` is the way in. ``spec`` reads what ``tasks="gsm8k:PATH"`` means, ``rows`` reads
files, ``layouts``, ``code_layouts`` and ``verl`` turn rows into tasks, and ``rates`` filters these
by difficulty. ``sources`` and ``builtin`` generate tasks, ``mixture`` combines sources, and
``draw`` takes the problem that the options of ``reset`` ask for.
"""
