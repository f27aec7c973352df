"""Code, docs and help are written in plain American field English; this test rejects the worst of other words."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from bertsurgeon.cli import app

ROOT = Path(__file__).parents[2]

WORDS = {
    # fragments that have no subject
    r"\"\"\"Likewise\b": "a sentence with a subject",
    r"\bLikewise\.": "a sentence with a subject",
    r"\bThat it knows\b": "a sentence with a subject",
    r"\bOf both\.": "a sentence with a subject",
    r"\bmanieth\b": "n-th",
    # verbs of the mind for code
    r"\bminds\b": "is sensitive to",
    r"\bheard\b": "used",
    r"\blisten(s|ed|ing)?\b": "uses",
    r"\bguess(es|ed|ing)?\b": "predicts",
    r"\bsays\b": "states, contains, returns",
    r"\bspeaks?\b": "outputs",
    r"\bknows\b": "has, contains, supports",
    r"\bwant(s|ed)?\b": "needs, requested",
    r"\bforg(ets?|ot|otten)\b": "clears, omits",
    r"\b[Nn]obody\b": "no one, or the passive",
    r"\bis gone\b": "is removed",
    r"\bhidden words\b": "masked tokens",
    # names of version 0.1
    r"\bhardness\b": "distillation_weight",
    r"\bat_once\b|--at-once\b": "micro_batch_size",
    r"\bTrainingOptions\b": "TrainingConfig",
    r"\bSideBySide\b": "SplitLinear",
    r"\bfit_heads\b": "update_head_counts",
    r"\bforget_ranges\b": "clear_int8_ranges",
    r"\bContender\b": "BenchmarkEntry",
    r"\bkind_of\b|\bKINDS\b": "task_type_of, TASK_TYPES",
    r"bertsurgeon\.(toy|processes|second_order|allocation|removal)\b": "the renamed modules, see CHANGELOG.md",
    # British spelling
    r"[Nn]eighbour": "neighbor",
    r"[Ll]abelled": "labeled",
    r"[Bb]ehaviour": "behavior",
    r"[Cc]olour": "color",
    r"\b[Cc]entre": "center",
    r"(?i)\b(normal|minim|maxim|optim|recogn|factor|regular|initial|serial|quant|token)is(e[ds]?|ing|ation)\b": "-ize",
}
"""Regular expressions, and what to write instead."""

ALLOWED = {
    "src/bertsurgeon/__init__.py": ("TrainingOptions",),  # names the new name in the error for the old one
    "src/bertsurgeon/gradual/recipe_files.py": ("hardness", "at_once"),  # names the new keys in the error for old ones
    "experiments/recovery.py": ("hardness",),  # part of the names of recorded results
    "experiments/lib/pruning_tables.py": ("hardness",),
    "experiments/lib/speed_tables.py": ("neighbour",),  # keys of recorded results
}
"""Words that a file needs."""

PENDING: dict[str, tuple[str, ...]] = {}
"""Words that are still to be replaced; remove a file from this list when it is done, and the list when it is empty."""

OPAQUE = {"found", "place", "own", "left", "wanted", "seen", "said", "known", "told", "gone"}
"""Names of variables that do not say what they hold."""

OPAQUE_PENDING = {
    "src/bertsurgeon/methods/auto/measurements.py": ("place",),
    "src/bertsurgeon/compensation/solve.py": ("left",),  # singular vectors
    "experiments/lib/factorizations.py": ("left",),  # singular vectors
    "experiments/lib/mutants.py": ("place",),
    "experiments/figures.py": ("left",),  # a side of a plot
}
"""Variables that are still to be renamed, or whose name is the standard one."""


def python_files() -> list[Path]:
    folders = ("src", "experiments", "examples", "docs")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def pages() -> list[Path]:
    recipes = (ROOT / "src").rglob("*.yaml")
    return [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(recipes)]


def without_recorded_results(text: str) -> str:
    """Blanks the tables that experiments/make_docs.py writes from recorded results, and keeps the lines."""
    block = r"<!-- (\w+): generated.*?<!-- end \1 -->"
    return re.sub(block, lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)


def matches(text: str, name: str) -> Iterator[str]:
    allowed = (*ALLOWED.get(name, ()), *PENDING.get(name, ()))
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, instead in WORDS.items():
            for match in re.finditer(pattern, line):
                if not any(word.casefold() in match[0].casefold() for word in allowed):
                    yield f"{name}:{number}: {match[0]!r}: write {instead}"


@pytest.mark.parametrize("files", [python_files, pages], ids=["code", "pages"])
def test_words(files: Callable[[], list[Path]]) -> None:
    lines = [
        match
        for path in files()
        for match in matches(without_recorded_results(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT)))
    ]
    assert lines == [], "\n".join(lines)


def test_words_of_the_help() -> None:
    group = get_command(app)
    helps = {}
    for name, command in group.commands.items():
        helps[name] = command.help or ""
        helps |= {f"{name} {each.name}": getattr(each, "help", None) or "" for each in command.params}
    assert len(helps) > 100
    lines = [match for name, text in helps.items() for match in matches(text, f"help of {name}")]
    assert lines == [], "\n".join(lines)


def test_variables_have_names_that_say_what_they_hold() -> None:
    opaque = []
    for path in python_files():
        name = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            variable = node.id if isinstance(node, ast.Name) else node.arg if isinstance(node, ast.arg) else ""
            if variable in OPAQUE and variable not in OPAQUE_PENDING.get(name, ()):
                opaque.append(f"{name}:{node.lineno}: {variable}")
    assert opaque == [], "\n".join(opaque)


def test_the_check_finds_words() -> None:
    assert list(matches('    """Likewise, for labelled text."""', "some.py")) != []
    assert list(matches("A loss that minds.", "some.py")) != []
    assert list(matches("The sensitivity of the loss.", "some.py")) == []
