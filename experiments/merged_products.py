"""Is one product for query, key and value faster than three? BERT-base's shape, random weights, fp32.

    python experiments/merged_products.py

The same models are exported as exports are, and with products that read the same value made one. Plans are those of
``experiments/speed.py``.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import onnx_ir as ir

from bertsurgeon import ExportConfig, export, load_model, progress
from bertsurgeon.benchmark import open_contender, random_inputs, time_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.exporting.lowering import Graph
from bertsurgeon.exporting.onnx_graph import merge_products, trace
from bertsurgeon.tasks import load_task, tokenize
from common import cached
from speed import SHAPES, build

MODELS = ("dense", "timed-0.5", "timed-0.88", "timed-0.97", "aligned-0.5")
RUNS = 15


def trace_and_merge(graph: Graph, opset: int) -> ir.Model:
    """In place of :func:`bertsurgeon.exporting.onnx_graph.trace` where exports call it."""
    model = trace(graph, opset)
    merge_products(model)
    return model


def measure(runtime: str, name: str) -> dict[str, dict[str, float]]:
    """Milliseconds by shape and way."""
    source = build(name)
    model, tokenizer = load_model(source), load_tokenizer(source)
    texts = tokenize(load_task("docstrings").train.select(range(256)), tokenizer)
    config = ExportConfig(runtime, samples=32, tolerance=float("inf"))  # type: ignore[arg-type]
    with TemporaryDirectory() as folder:
        export(model, Path(folder) / "separate", config, texts, tokenizer)
        with patch("bertsurgeon.exporting.folder.trace", trace_and_merge):
            export(model, Path(folder) / "merged", config, texts, tokenizer)
        opened = {way: open_contender(str(Path(folder) / way)).model for way in ("merged", "separate")}
        found = {}
        for shape in SHAPES:
            times = time_batches(opened, [random_inputs(list(opened.values()), *shape)], runs=RUNS)
            found["x".join(map(str, shape))] = {way: latency.p50_ms for way, latency in times.items()}
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    quieten_libraries()
    progress.show()
    for runtime in ("onnx", "openvino"):
        for name in MODELS:
            cached(f"merged-products/{runtime}-{name}", lambda r=runtime, n=name: {"milliseconds": measure(r, n)})


if __name__ == "__main__":
    main()
