"""Programs for questions in words: legs of animals, lists of numbers, times of the day.

The program book of the bundled policy is in ``programs``; these families are for larger models.
"""

from __future__ import annotations

from cleaner_rl.sft.demonstrations.family import FamilyPrograms

__all__ = ["MORE_PROGRAMS"]

_LEGS = {
    0: ("snake", "sea slug", "jellyfish", "flatworm", "leech"),
    2: ("chicken", "bird", "human", "duck"),
    4: ("dog", "cat", "cow", "horse", "lion", "elephant", "giraffe", "tiger", "deer", "sheep"),
    5: ("starfish",),
    6: (
        *("insect", "ant", "butterfly", "beetle", "bee", "wasp", "grasshopper", "cricket"),
        *("cockroach", "praying mantis", "firefly"),
    ),
    8: ("spider", "scorpion"),
    10: ("crab", "lobster", "shrimp"),
    14: ("woodlouse",),
}
_LEGS_OF = {animal: legs for legs, animals in _LEGS.items() for animal in animals}
_KEPT_BY = {
    ("Keep", "larger"): (">", "<"),
    ("Keep", "smaller"): ("<", ">"),
    ("Remove", "larger"): ("<=", ">="),
    ("Remove", "smaller"): (">=", "<="),
}
"""What becomes of numbers on a side -> comparison that those which stay pass, and its mirror."""
_TIMES = {
    "HH:MM": (
        "%H:%M",
        'minutes = (end - start).seconds // 60\nprint(f"{minutes // 60:02}:{minutes % 60:02}")',
    ),
    "HH:MM:SS": (
        "%H:%M:%S",
        "seconds = (end - start).seconds\n"
        'print(f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}")',
    ),
}
"""The form of an answer -> the form of the times in the question, and how the answer is printed."""


def _leg_fields(fields: dict[str, str]) -> dict[str, str]:
    """Sums and tables of the animals; the library writes their plurals with an s, always."""
    counts = {}
    for item in fields["animals"].split(", "):
        count, _, animal = item.partition(" ")
        counts[animal if count == "1" else animal.removesuffix("s")] = count
    unknown = sorted(set(counts) - set(_LEGS_OF))
    if unknown:
        raise ValueError(f"nobody knows how many legs these have: {unknown}")
    names = {animal: animal.replace(" ", "_") for animal in counts}
    legs = {animal: f"{counts[animal]} * {_LEGS_OF[animal]}" for animal in counts}
    return {
        "sum": " + ".join(legs.values()),
        "lines": "\n".join(f"{names[animal]} = {legs[animal]}" for animal in counts),
        "names": " + ".join(names.values()),
        "counts": ", ".join(f'"{animal}": {count}' for animal, count in counts.items()),
        "legs": ", ".join(f'"{animal}": {_LEGS_OF[animal]}' for animal in counts),
        "heads": " + ".join(counts.values()),
    }


def _filter_fields(fields: dict[str, str]) -> dict[str, str]:
    """The comparison that the numbers which stay pass, and its mirror."""
    kept, mirror = _KEPT_BY[fields["what"], fields["side"]]
    return {**fields, "kept": kept, "mirror": mirror}


def _sort_fields(fields: dict[str, str]) -> dict[str, str]:
    """How the order is asked for in ``sort`` and ``sorted``, and how its reverse is."""
    down = fields["order"] == "descending"
    return {
        **fields,
        "how": "reverse=True" if down else "",
        "also": ", reverse=True" if down else "",
        "flipped": "" if down else ", reverse=True",
    }


def _time_fields(fields: dict[str, str]) -> dict[str, str]:
    """The form of the times, and the lines that print the difference."""
    form, lines = _TIMES[fields["form"]]
    if len(fields["start"]) != len(fields["form"]):
        raise ValueError(f"the times are not written as {fields['form']}: {fields['start']}")
    return {**fields, "pattern": form, "show": lines}


_CLOCK = r"(?<![\d-])(?P<%s>\d\d:\d\d(?::\d\d)?)(?![\d:]|\.\d)"
_DATETIMES = (
    "from datetime import datetime\n"
    'start = datetime.strptime("$start", "$pattern")\nend = datetime.strptime("$end", "$pattern")\n'
)

MORE_PROGRAMS: dict[str, FamilyPrograms] = {
    "leg_counting": FamilyPrograms(
        question=r"if you have (?P<animals>[^?]+)\?",
        extend=_leg_fields,
        sentences=("I will add up the legs.", "Let me count the legs of each kind."),
        right=(
            "$lines\nprint($names)",
            "legs = $sum\nprint(legs)",
            "counts = {$counts}\nlegs = {$legs}\n"
            "print(sum(counts[name] * legs[name] for name in counts))",
        ),
        wrong=("animals = $heads\nprint(animals)", "legs = $sum\nprint(legs + 2)"),
    ),
    "number_filtering": FamilyPrograms(
        question=r"(?P<what>Keep|Remove) all numbers (?P<side>larger|smaller) than "
        r"(?P<limit>-?[\d.]+) in this list: (?P<numbers>\[[^\]]*\])",
        extend=_filter_fields,
        longest_answer=160,
        sentences=("I will filter the list.", "Let me compare each number with the limit."),
        right=(
            "numbers = $numbers\nprint([n for n in numbers if float(n) $kept $limit])",
            "numbers = $numbers\nkept = []\nfor n in numbers:\n"
            "    if float(n) $kept $limit:\n        kept.append(n)\nprint(kept)",
        ),
        wrong=("numbers = $numbers\nprint([n for n in numbers if float(n) $mirror $limit])",),
    ),
    "number_sorting": FamilyPrograms(
        question=r"Sort these numbers in (?P<order>ascending|descending) order: "
        r"(?P<numbers>[-+.\de, ]+)\n",
        extend=_sort_fields,
        longest_answer=160,
        sentences=("I will sort the numbers.", "Let me put them in order."),
        right=(
            "numbers = [$numbers]\nprint([str(n) for n in sorted(numbers$also)])",
            "numbers = [$numbers]\nnumbers.sort($how)\nprint([str(n) for n in numbers])",
        ),
        wrong=("numbers = [$numbers]\nprint([str(n) for n in sorted(numbers$flipped)])",),
    ),
    "time_intervals": FamilyPrograms(
        question=_CLOCK % "start" + r"\D+" + _CLOCK % "end" + r"\D+ in (?P<form>HH:MM(?::SS)?)\.",
        extend=_time_fields,
        sentences=("I will subtract the times.", "Let me compute the difference."),
        right=(f"{_DATETIMES}$show",),
        wrong=(f"{_DATETIMES.replace('$end', '$start')}$show",),
    ),
}
"""Family name -> its programs, as in ``PROGRAM_BOOK``."""
