"""Tables fit 80 columns: no word is cut, no line is longer."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from bertsurgeon.cli.bench import _show as show_bench
from bertsurgeon.cli.tables import print_plan, print_sparsity, print_summary
from bertsurgeon.cli.train import show_metrics
from bertsurgeon.plan import (
    Dropped,
    Grouped,
    LayerPlan,
    LowRank,
    MatrixPlan,
    ModelPlan,
    Role,
    SubLayerName,
    Units,
    dense_plan,
)
from bertsurgeon.plan.model_plan import GATED, SUB_LAYERS, sub_layer_of

WIDTH = 80


def render(show: Callable[[Console], None]) -> str:
    file = io.StringIO()
    show(Console(file=file, width=WIDTH, markup=False, emoji=False))
    text = file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= WIDTH
    return text


def make_plan(layers: int, hidden: int, heads: int, gated: bool = False) -> ModelPlan:
    """A plan in which every structure occurs, with the widest numbers."""
    roles: list[Role] = [role for names in (GATED if gated else SUB_LAYERS).values() for role in names]
    tall, wide = (4 * hidden, hidden), (hidden, 4 * hidden)
    dense = {role: {"intermediate": tall, "gate": tall, "output": wide}.get(role, (hidden, hidden)) for role in roles}
    units: dict[SubLayerName, Units] = {
        "attention": Units((tuple(range(heads - 2)),), heads, hidden // heads),
        "feed_forward": Units((tuple(range(1024)),), 4 * hidden, 1),
    }
    plans = []
    for layer in range(layers):
        matrices = dict(dense_plan("bert", [dense]).layers[0].matrices)
        if layer == 0:
            matrices = {role: MatrixPlan(matrix.shape, Dropped()) for role, matrix in matrices.items()}
        elif layer == 1:
            halves = (tuple(range(hidden // 2)), tuple(range(hidden // 2, hidden)))
            matrices["query"] = MatrixPlan((hidden, hidden), Grouped(halves, halves))
            matrices["key"] = MatrixPlan((hidden, hidden), LowRank(hidden // 2))
        plans.append(LayerPlan(matrices))
    kept = {}
    for role in roles:
        rows, columns = dense[role]
        size = (heads - 2) * (hidden // heads) if sub_layer_of(role) == "attention" else 1024
        stored = (rows, size) if role in ("attention_output", "output") else (size, columns)
        kept[role] = MatrixPlan((rows, columns), LowRank(128), stored)
    plans.append(LayerPlan(kept, units))
    return ModelPlan("bert", tuple(plans))


@pytest.mark.parametrize(
    "plan",
    [make_plan(5, 384, 12), make_plan(11, 768, 12), make_plan(3, 1024, 16, gated=True)],
    ids=["MiniLM", "BERT base", "gated"],
)
def test_plans_fit(plan: ModelPlan) -> None:
    text = render(lambda console: print_plan(plan, console))
    assert "r=128" in text
    assert "G=2" in text
    assert "heads and neurons: kept; r: rank of two factors; G: number of groups; –: removed" in text
    kept = [dict.fromkeys(plan.layers[0].matrices, 3)] * len(plan.layers)
    render(lambda console: print_sparsity(kept, plan, 4, console))


def test_long_names_of_metrics_are_whole() -> None:
    name = "a_metric_with_a_name_that_is_longer_than_the_column_that_is_left_for_it"
    sizes = {"encoder_weights": 85e6, "file_bytes": 437e6, "flops": 22e9, "latency_ms_8x128": 1234.5}
    rows: dict[str, dict[str, Any]] = {model: {name: 100.0, **sizes} for model in ("dense", "pruned")}
    text = render(lambda console: print_summary(rows, console))
    assert "encoder weights" in text
    column = "".join(line.strip("│ ").split(" ")[0] for line in text.splitlines())
    assert name in column


def bench_result(names: list[str]) -> dict[str, Any]:
    row = {
        "runtime": "ONNX Runtime",
        "precision": "int8",
        "speedup": 12.345,
        "p50_ms": 1234.56,
        "p95_ms": 2345.67,
        "throughput_ratio": 10.5,
        "texts_per_second": 12345.0,
        "memory_bytes": 1.2e9,
        "file_bytes": 437e6,
    }
    frame = {"batch_sizes": [1, 8, 32], "drawn_from_data": False, "length": 128, "environment": {"threads": 16}}
    return {**frame, "models": dict.fromkeys(names, row)}


def test_names_of_models_are_whole() -> None:
    names = ["/home/someone/models/minilm-sst2", *(f"/home/{'x' * 90}/pruned/sparsity-0.{part}" for part in (5, 75))]
    text = render(lambda console: show_bench(bench_result(names), console))
    for number, name in enumerate(names, 1):
        assert f"{number}  {name}" in text.replace("\n", "")
    assert "1234.6" in text
    assert " texts/s  3\n" in text
    short = render(lambda console: show_bench(bench_result(["a", "b"]), console))
    assert " texts/s  b\n" in short
    assert "1  a" not in short


def test_a_recovery_prints_both_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    show_metrics({"before": {"accuracy": 71.5}, "metrics": {"accuracy": 90.25}}, as_json=False)
    assert capsys.readouterr().out == "before: accuracy 71.50\nafter:  accuracy 90.25\n"
