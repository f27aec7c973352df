"""Speed of the study's models: the plans for SST-2, in PyTorch and in ONNX Runtime, 8 x 128 tokens.

    python experiments/study_speed.py --data-dir ../shared/data/glue

Time depends only on the plan, so nothing is compensated. Torch-Pruning's models are plain smaller models. Runs are
interleaved with those of the dense model.
"""

from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bertsurgeon import ExportConfig, export
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import compare_latency, open_entry
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.methods.auto.method import plan_budget
from bertsurgeon.methods.pgb.importance import Importance, score_matrices
from bertsurgeon.methods.pgb.method import make_plan
from lib.common import make_parser, parse_arguments
from lib.models import StudyModel, load_study_model
from lib.results_store import RUNS, ResultsStore
from lib.study_methods import SHARES, first_layers, torch_pruning

AUTO: dict[str, dict[str, Any]] = {
    "auto": {},
    "removal": {"structures": ("removal",)},
    "low_rank": {"structures": ("low_rank",)},
    "groups": {"structures": ("groups",)},
}
BATCH, LENGTH = 8, 128


def build(dense: StudyModel, method: str, share: float) -> PreTrainedModel:
    """Returns a model with the row's plan, without compensation."""
    if method == "first-layers":
        return first_layers(dense, share)
    if method == "torch-pruning":
        return torch_pruning(dense, share)
    if method in AUTO:
        config = dense.config(share, **AUTO[method])
        plan = plan_budget(dense.model, config, dense.calibration)
    else:
        importance: Importance = "magnitude" if method == "magnitude" else "fisher"
        scores = dense.with_statistics.scores
        if importance == "magnitude":
            scores = score_matrices(dense.model, dense.with_statistics.statistics, "magnitude", 0.0)
        plan = make_plan(Encoder(dense.model).architecture, dense.pgb_config(share, importance=importance), scores)
    model = apply_plan(dense.model, plan, "none")
    attach_plan(model, plan)
    return model


def measure(dense: StudyModel, method: str, share: float, runtime: str) -> dict[str, Any]:
    model = build(dense, method, share)
    models: dict[str, Any] = {"dense": dense.model, "this": model}
    if runtime == "onnx":
        folders = {"dense": RUNS / "study-speed" / "dense", "this": RUNS / "study-speed" / f"{method}-{share:g}"}
        config = ExportConfig(tolerance=float("inf"))
        for name, folder in folders.items():
            if not folder.is_dir():
                export(models[name], config, dense.train.select(range(512)), dense.tokenizer, output=folder)
        models = {name: open_entry(str(folder)).model for name, folder in folders.items()}
    latency = compare_latency(models, BATCH, LENGTH, runs=20)
    return {
        "speedup": latency["dense"].p50_ms / latency["this"].p50_ms,
        "dense_ms": latency["dense"].p50_ms,
        "ms": latency["this"].p50_ms,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    arguments = parse_arguments(parser)
    results = ResultsStore("study_speed", arguments)
    dense = load_study_model("sst2", 0, arguments.data_dir)
    methods = (*AUTO, "pgb", "magnitude", "first-layers", "torch-pruning")
    for runtime in ("pytorch", "onnx"):
        for share in SHARES:
            for method in methods:
                results.run(
                    f"{method}-{share:g}-{runtime}",
                    partial(measure, dense, method, share, runtime),
                    {"method": method, "share": share, "runtime": runtime},
                    seed=dense.seed,
                )


if __name__ == "__main__":
    main()
