"""Is one product for query, key and value faster than three? BERT-base's shape, random weights, fp32.

    python experiments/merged_products.py

Exports merge products that read the same input (:func:`bertsurgeon.exporting.onnx_graph.merge_products`). Here the same
models are exported with and without that; all four take turns. Plans are those of ``experiments/speed.py``.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from bertsurgeon import ExportConfig, export, load_model, progress
from bertsurgeon.benchmark import open_contender, random_inputs, time_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.exporting import onnx_graph
from bertsurgeon.tasks import load_task, tokenize
from common import cached
from speed import SHAPES, build

MODELS = ("dense", "auto-0.5")


def measure(runtime: str) -> dict[str, dict[str, float]]:
    """Milliseconds by shape and model."""
    with TemporaryDirectory() as folder:
        opened = {}
        for name in MODELS:
            source = build(name)
            model, tokenizer = load_model(source), load_tokenizer(source)
            texts = tokenize(load_task("docstrings").train.select(range(256)), tokenizer)
            config = ExportConfig(runtime, samples=32, tolerance=float("inf"))  # type: ignore[arg-type]
            export(model, Path(folder) / f"{name}, merged", config, texts, tokenizer)
            with patch.object(onnx_graph, "merge_products", lambda graph: 0):
                export(model, Path(folder) / f"{name}, separate", config, texts, tokenizer)
            for way in ("merged", "separate"):
                opened[f"{name}, {way}"] = open_contender(str(Path(folder) / f"{name}, {way}")).model
        found = {}
        for shape in SHAPES:
            times = time_batches(opened, [random_inputs(list(opened.values()), *shape)], runs=40)
            found["x".join(map(str, shape))] = {name: latency.p50_ms for name, latency in times.items()}
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    quieten_libraries()
    progress.show()
    for runtime in ("onnx", "openvino"):
        cached(f"merged-products/{runtime}", lambda r=runtime: {"milliseconds": measure(r)})


if __name__ == "__main__":
    main()
