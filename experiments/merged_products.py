"""Is one product for query, key and value faster than three? BERT-base's shape, random weights, fp32.

    python experiments/merged_products.py

The same models are exported as usual, and with the products of the same input merged. Plans are those of
``experiments/speed.py``.
"""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import onnx_ir as ir

from bertsurgeon import ExportConfig, export, load_model
from bertsurgeon.benchmark import open_entry, random_inputs, time_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.exporting.lowering import Graph
from bertsurgeon.exporting.onnx_graph import trace
from bertsurgeon.exporting.onnx_tuning import merge_products
from bertsurgeon.tasks import load_task, tokenize
from lib.common import make_parser, parse_arguments
from lib.results_store import ResultsStore
from lib.speed_models import SHAPES, build

MODELS = ("dense", "timed-0.5", "timed-0.88", "timed-0.97", "aligned-0.5")
RUNS = 15


def trace_and_merge(graph: Graph, opset: int) -> ir.Model:
    """Replaces :func:`bertsurgeon.exporting.onnx_graph.trace` in exports."""
    model = trace(graph, opset)
    merge_products(model)
    return model


def measure(runtime: str, name: str) -> dict[str, dict[str, dict[str, float]]]:
    """Returns milliseconds by shape, merged and separate."""
    source = build(name)
    model, tokenizer = load_model(source), load_tokenizer(source)
    texts = tokenize(load_task("docstrings").train.select(range(256)), tokenizer)
    config = ExportConfig(runtime, samples=32, tolerance=float("inf"))  # type: ignore[arg-type]
    with TemporaryDirectory() as folder:
        export(model, config, texts, tokenizer, output=Path(folder) / "separate")
        with patch("bertsurgeon.exporting.write.trace", trace_and_merge):
            export(model, config, texts, tokenizer, output=Path(folder) / "merged")
        opened = {way: open_entry(str(Path(folder) / way)).model for way in ("merged", "separate")}
        milliseconds = {}
        for shape in SHAPES:
            times = time_batches(opened, [random_inputs(list(opened.values()), *shape)], runs=RUNS)
            milliseconds["x".join(map(str, shape))] = {way: latency.p50_ms for way, latency in times.items()}
    return {"milliseconds": milliseconds}


def main() -> None:
    results = ResultsStore("merged_products", parse_arguments(make_parser(__doc__)))
    for runtime in ("onnx", "openvino"):
        for name in MODELS:
            configuration = {"runtime": runtime, "model": name}
            results.run(f"{runtime}-{name}", partial(measure, runtime, name), configuration, seed=0)


if __name__ == "__main__":
    main()
