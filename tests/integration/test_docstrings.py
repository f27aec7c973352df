"""The examples in docstrings, run as they stand there."""

import doctest
import importlib

import pytest

EXAMPLES = {
    "bertsurgeon.budgets": "Sparsity",
    "bertsurgeon.methods.auto.config": "AutoConfig",
    "bertsurgeon.methods.pgb.config": "PgbConfig",
    "bertsurgeon.methods.obert.config": "ObertConfig",
    "bertsurgeon.pruning": "prune",
    "bertsurgeon.methods.auto.measurements": "calibrate",
    "bertsurgeon.recovery.training": "recover",
    "bertsurgeon.evaluation": "evaluate",
    "bertsurgeon.benchmark.bench": "bench",
    "bertsurgeon.exporting.export": "export",
    "bertsurgeon.vocabulary.trim": "trim_vocabulary",
    "bertsurgeon.workflows.verify": "verify",
}
"""The name of the Python API that each module shows."""


@pytest.mark.parametrize(("module", "name"), EXAMPLES.items())
def test_examples_run(module: str, name: str) -> None:
    if name == "export":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    found = importlib.import_module(module)
    shown = getattr(importlib.import_module("bertsurgeon"), name)
    assert shown is getattr(found, name)
    [example] = doctest.DocTestFinder(recurse=False).find(shown, name, module=found, globs={})
    assert example.examples
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert result.failed == 0, "".join(report)
