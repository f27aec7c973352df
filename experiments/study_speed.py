"""How fast each row of the study runs: the plans found for SST-2, in PyTorch and in ONNX Runtime, 8 x 128 tokens.

    python experiments/study_speed.py --data-dir ../shared/data/glue

Time depends on the plan alone, so nothing is compensated. Torch-Pruning's models are plain smaller models; all run
interleaved with the dense one.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from bertsurgeon import ExportConfig, export, progress
from bertsurgeon.architectures import get_architecture
from bertsurgeon.benchmark import compare_latency, open_contender
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.compensation import apply_plan
from bertsurgeon.importance import score_matrices
from bertsurgeon.pruning import make_plan
from bertsurgeon.pruning.auto import plan_auto
from common import cached
from study import RUNS, SHARES, Subject, first_layers, load, torch_pruning

AUTO: dict[str, dict[str, Any]] = {
    "auto": {},
    "removal": {"structures": ("removal",)},
    "low_rank": {"structures": ("low_rank",)},
    "groups": {"structures": ("groups",)},
}
BATCH, LENGTH = 8, 128


def build(subject: Subject, method: str, share: float) -> PreTrainedModel:
    """A model with the row's plan; what its weights are does not matter."""
    if method == "first-layers":
        return first_layers(subject, share)
    if method == "torch-pruning":
        return torch_pruning(subject, share)
    architecture = get_architecture(subject.model.config.model_type)
    if method in AUTO:
        config = subject.config(share, **AUTO[method])
        plan = plan_auto(subject.model, architecture, subject.calibration, config)
    else:
        importance = "magnitude" if method == "magnitude" else "fisher"
        scores = subject.bench.scores
        if importance == "magnitude":
            scores = score_matrices(subject.model, architecture, subject.bench.statistics, "magnitude", 0.0)
        plan = make_plan(architecture, scores, subject.config(share, method="pgb", importance=importance))
    model = apply_plan(subject.model, architecture, plan, "none")
    attach_plan(model, plan)
    return model


def measure(subject: Subject, method: str, share: float, runtime: str) -> dict[str, Any]:
    model = build(subject, method, share)
    models: dict[str, Any] = {"dense": subject.model, "this": model}
    if runtime == "onnx":
        folders = {"dense": RUNS / "study-speed" / "dense", "this": RUNS / "study-speed" / f"{method}-{share:g}"}
        config = ExportConfig(tolerance=float("inf"))
        for name, folder in folders.items():
            if not folder.is_dir():
                export(models[name], folder, config, subject.train.select(range(512)), subject.tokenizer)
        models = {name: open_contender(str(folder)).model for name, folder in folders.items()}
    latency = compare_latency(models, BATCH, LENGTH, runs=20)
    return {
        "speedup": latency["dense"].p50_ms / latency["this"].p50_ms,
        "dense_ms": latency["dense"].p50_ms,
        "ms": latency["this"].p50_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    torch.manual_seed(0)
    subject = load("sst2", 0, arguments.data_dir)
    methods = (*AUTO, "pgb", "magnitude", "first-layers", "torch-pruning")
    for runtime in ("pytorch", "onnx"):
        for share in SHARES:
            for method in methods:
                cached(
                    f"study-speed/{method}-{share:g}-{runtime}",
                    lambda m=method, k=share, r=runtime: measure(subject, m, k, r),
                )


if __name__ == "__main__":
    main()
