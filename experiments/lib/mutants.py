"""Mutants of a module, and whether tests notice them; run as a process of its own, which must not import the package.

Torch, transformers and pytest are imported once. Every mutant then gets a fork of the process, in which an import hook
puts it in the place of the module; no file changes.
"""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.USub: ast.UAdd,
}
"""Operators and what takes their place."""

NAMES = {"min": "max", "max": "min", "argmin": "argmax", "argmax": "argmin", "zeros_like": "ones_like"}
"""Functions and what takes their place."""

Change = tuple[str, Callable[[Any], None]]


@dataclass(frozen=True)
class Mutant:
    """One change of a module.

    Attributes:
        line: Where it is.
        change: What it is.
        code: The compiled module.
    """

    line: int
    change: str
    code: CodeType


def _changes(node: ast.AST) -> Iterator[Change]:
    """All changes of one node: a description, and a function that changes the node in place."""
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() | ast.UnaryOp() if type(node.op) in SWAPS:
            new = SWAPS[type(node.op)]
            yield f"{type(node.op).__name__} → {new.__name__}", lambda n: setattr(n, "op", new())
        case ast.UnaryOp(op=ast.Not()):
            yield "without not", lambda n: setattr(n, "operand", ast.UnaryOp(ast.Not(), n.operand))
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                other = SWAPS[type(operator)]
                yield (
                    f"{type(operator).__name__} → {other.__name__}",
                    lambda n, place=place, other=other: n.ops.__setitem__(place, other()),
                )
        case ast.If() | ast.While() | ast.comprehension(ifs=[_, *_]):
            if isinstance(node, ast.comprehension):
                yield "without if", lambda n: n.ifs.clear()
            else:
                yield "negated condition", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
        case ast.IfExp():
            yield "negated condition", lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
        case ast.Constant(value=bool()):
            yield f"{node.value} → {not node.value}", lambda n: setattr(n, "value", not n.value)
        case ast.Constant(value=int() | float()):
            new_value = node.value + 1 if isinstance(node.value, int) else 2 * node.value + 1e-3
            yield f"{node.value} → {new_value}", lambda n: setattr(n, "value", new_value)
        case ast.Call():
            for place, keyword in enumerate(node.keywords):
                yield f"without {keyword.arg}=", lambda n, place=place: n.keywords.pop(place)
        case ast.Expr(value=ast.Call()):
            yield "without statement", lambda n: setattr(n, "value", ast.Constant(None))
        case ast.Name() if node.id in NAMES:
            yield f"{node.id} → {NAMES[node.id]}", lambda n: setattr(n, "id", NAMES[n.id])
        case ast.Attribute() if node.attr in NAMES:
            yield f"{node.attr} → {NAMES[node.attr]}", lambda n: setattr(n, "attr", NAMES[n.attr])


def _skipped(tree: ast.AST) -> set[int]:
    """Nodes, by their position in ``ast.walk``, that change no behavior or only messages."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        children: list[ast.AST | None] = []
        match node:
            case ast.FunctionDef():
                every = (*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg)
                children = [node.returns, *node.decorator_list, *(a.annotation for a in every if a is not None)]
            case ast.AnnAssign():
                children = [node.annotation]
            case ast.ClassDef():
                children = [*node.decorator_list, *node.bases]
            case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.ImportFrom():
                children = [node]
        for child in children:
            skipped.update(map(id, ast.walk(child)) if child is not None else ())
    return {index for index, node in enumerate(ast.walk(tree)) if id(node) in skipped}


def make_mutants(path: Path) -> list[Mutant]:
    """All mutants of a module."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    skipped = _skipped(tree)
    mutants = []
    for index, node in enumerate(ast.walk(tree)):
        if index in skipped:
            continue
        for number, (change, _) in enumerate(_changes(node)):
            copy = ast.parse(source)
            changed = list(ast.walk(copy))[index]
            list(_changes(changed))[number][1](changed)
            line = getattr(node, "lineno", 0) or getattr(getattr(node, "target", None), "lineno", 0)
            mutants.append(Mutant(line, change, compile(ast.fix_missing_locations(copy), str(path), "exec")))
    return mutants


class _Replacement(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that executes other code for one module."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def run_tests(tests: Sequence[str], seconds: int, replacement: _Replacement | None = None) -> str:
    """``passed``, ``failed`` or ``timeout`` of some tests in a fork of this process."""
    if (child := os.fork()) == 0:
        signal.alarm(seconds)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        if replacement is not None:
            sys.meta_path.insert(0, replacement)
        import pytest

        status = 3
        try:
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) == signal.SIGALRM else "failed"
    return "passed" if os.WEXITSTATUS(status) == 0 else "failed"


def main() -> None:
    """Reads a job from standard input, writes its result to standard output; both are JSON."""
    import hypothesis  # noqa: F401 - imported here, so that forks need not
    import torch
    from transformers import (  # noqa: F401
        BertForSequenceClassification,
        DistilBertForSequenceClassification,
        RobertaForSequenceClassification,
        Trainer,
    )

    torch.set_num_threads(1)
    job = json.load(sys.stdin)
    root, choose = Path(job["root"]), random.Random(job["seed"])
    sys.path[:0] = [str(root / "src"), str(root / "tests")]
    os.chdir(root)
    result: dict[str, Any] = {}
    everything = {target: make_mutants(root / "src" / target) for target in job["targets"]}
    total = sum(map(len, everything.values()))
    for target, tests in job["targets"].items():
        start = time.perf_counter()
        if run_tests(tests, 600) != "passed":
            raise SystemExit(f"The tests of {target} fail without a mutant: {' '.join(tests)}")
        limit = int(20 + 5 * (time.perf_counter() - start))
        mutants = everything[target]
        sample = choose.sample(mutants, min(len(mutants), max(1, round(job["mutants"] * len(mutants) / total))))
        name = target.removesuffix(".py").replace("/", ".")
        counts = {"passed": 0, "failed": 0, "timeout": 0}
        survivors = []
        for mutant in sorted(sample, key=lambda mutant: mutant.line):
            outcome = run_tests(tests, limit, _Replacement(name, root / "src" / target, mutant.code))
            counts[outcome] += 1
            if outcome == "passed":
                survivors.append(f"{mutant.line}: {mutant.change}")
            print(f"{target}:{mutant.line} {mutant.change}: {outcome}", file=sys.stderr, flush=True)
        result[target] = {
            "possible": len(mutants),
            "mutants": len(sample),
            "survived": counts["passed"],
            "timeouts": counts["timeout"],
            "survivors": survivors,
        }
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
