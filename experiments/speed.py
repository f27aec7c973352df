"""Speed of pruned encoders of BERT-base's shape, by runtime and precision.

    python experiments/speed.py --plans runs/minilm-sst2 --data-dir ../shared/data/glue
    python experiments/speed.py

The first command makes the plans: those of ``auto`` for MiniLM on SST-2, with every width doubled and every layer used
twice. The budget is weights, or (``timed``) milliseconds in PyTorch, as for ``--speedup``, or (``int8``) milliseconds
in ONNX Runtime in INT8, such that the same share of weights is removed. The second command exports models with these
plans and times them interleaved: dense, pruned, and the dense model in PyTorch fp32. Their weights are random, which
does not change the speed. Rows of plans start with ``plans/``, those of MiniLM's accuracy with them with ``quality/``.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bertsurgeon import (
    AutoConfig,
    Calibration,
    CalibrationConfig,
    ExportConfig,
    Sparsity,
    calibrate,
    evaluate,
    export,
    load_model,
)
from bertsurgeon.architectures import Encoder, unfuse
from bertsurgeon.benchmark import open_entry, random_inputs, time_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.compensation import apply_plan
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.costs import Cost, FittedMilliseconds
from bertsurgeon.methods.auto.latency_model import DeploymentTarget, fit_costs
from bertsurgeon.methods.auto.method import plan_budget
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.methods.auto.speedup import measure_costs
from bertsurgeon.plan import ModelPlan
from bertsurgeon.tasks import get_task, load_task, tokenize
from bertsurgeon.workflows import resolve_model
from lib.common import make_parser, parse_arguments
from lib.results_store import RUNS, ResultsStore
from lib.speed_models import PLANS, PRECISIONS, REMOVED, SCALE, SHAPES, build, scale_up

REFERENCE = "dense PyTorch fp32"
"""Timed with all others."""


def make_plans(results: ResultsStore, folder: str, data_dir: Path) -> None:
    """Makes the scaled-up plans of ``auto``, and scores MiniLM with the original ones."""
    model, tokenizer = unfuse(load_model(folder)), load_tokenizer(folder)
    train = tokenize(load_task("sst2", data_dir).train, tokenizer)
    calibration = calibrate(model, CalibrationConfig(), train, tokenizer)
    data = tokenize(load_task("sst2", data_dir).validation, tokenizer)

    @cache
    def milliseconds() -> Cost:
        return measure_costs(model, *SHAPES[0])

    @cache
    def int8_milliseconds() -> Cost:
        target = DeploymentTarget("onnx", "int8", random_inputs([model], *SHAPES[0]))
        return scale_up_costs(fit_costs(model, calibration.curves, target))

    makers: dict[str, Callable[[float], ModelPlan]] = {
        "auto": lambda removed: plan_budget(model, AutoConfig(Sparsity(removed)), calibration),
        "timed": lambda removed: timed_plan(model, calibration, milliseconds(), removed),
        "int8": lambda removed: timed_plan(model, calibration, int8_milliseconds(), removed),
    }
    for removed in REMOVED:
        for name, make in makers.items():
            configuration = {"budget": name, "removed": removed}
            plan = cache(partial(make, removed))
            results.run(
                f"quality/{name}-{removed:g}",
                lambda p=plan: evaluate_plan(model, calibration, p(), data, tokenizer),
                configuration,
                seed=0,
            )
            results.run(
                f"plans/{name}-{removed:g}", lambda p=plan: {"plan": scale_up(p()).to_dict()}, configuration, seed=0
            )


def scale_up_costs(costs: FittedMilliseconds) -> FittedMilliseconds:
    """Returns the costs of the same parts after all widths were doubled."""
    return replace(
        costs,
        per_weight=SCALE**2 * costs.per_weight,
        per_input=SCALE * costs.per_input,
        per_output=SCALE * costs.per_output,
        per_channel={name: SCALE * value for name, value in costs.per_channel.items()},
    )


def timed_plan(model: PreTrainedModel, calibration: Calibration, costs: Cost, removed: float) -> ModelPlan:
    """Returns the plan whose time budget removes this share of the weights; the budget is found by bisection."""
    encoder, curves = Encoder(model), calibration.curves
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        try:
            choices = allocate(curves, costs, share * full_cost(curves, costs), groups=False)
        except OptionError:  # too small for any plan
            low = share
            continue
        plan = make_allocated_plan(encoder.architecture.name, encoder.shapes, curves, choices)
        low, high = (share, high) if plan.sparsity > removed else (low, share)
    return plan


def evaluate_plan(
    model: PreTrainedModel,
    calibration: Calibration,
    plan: ModelPlan,
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Returns the accuracy of MiniLM pruned by a plan, one-shot."""
    pruned = apply_plan(
        model,
        plan,
        "sequential",
        batches=calibration.batches,
        curvature=calibration.curvature,
        token_weights=calibration.token_weights,
    )
    return {"sparsity": plan.sparsity, "metrics": evaluate(pruned, get_task("sst2"), data, tokenizer)}


def prepare(name: str, runtime: str, precision: str, texts: Dataset) -> str:
    """Returns the argument of ``bench``: a folder for PyTorch, or an exported one."""
    folder = build(name)
    if runtime == "pytorch":
        return str(folder) if precision == "fp32" else f"{folder}@bf16"
    exported = RUNS / "speed" / f"{name}-{runtime}-{precision}"
    if not exported.is_dir():
        config = ExportConfig(runtime, precision, samples=32, tolerance=float("inf"))  # type: ignore[arg-type]
        export(load_model(folder), config, texts, load_tokenizer(folder), output=exported)
    return str(exported)


def measure(runtime: str, precision: str, shape: tuple[int, int], texts: Dataset) -> dict[str, Any]:
    names = {
        name: prepare(name, runtime, precision, texts)
        for name in PLANS
        if not name.startswith("timed" if precision == "int8" else "int8")
    }
    opened = {name: open_entry(path) for name, path in (names | {REFERENCE: str(build("dense"))}).items()}
    models = {name: entry.model for name, entry in opened.items()}
    batches = [random_inputs(list(models.values()), *shape)]
    latencies = time_batches(models, batches, runs=30, seconds=120)
    return {
        name: {
            "speedup": latencies["dense"].p50_ms / latency.p50_ms,
            "speedup_to_reference": latencies[REFERENCE].p50_ms / latency.p50_ms,
            **vars(latency),
            "file_bytes": opened[name].file_bytes,
            "encoder_weights": opened[name].encoder_weights,
        }
        for name, latency in latencies.items()
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--plans", help="folder of the fine-tuned MiniLM; makes the plans, and nothing else")
    parser.add_argument("--data-dir", type=Path)
    arguments = parse_arguments(parser)
    results = ResultsStore("speed", arguments)
    if arguments.plans:
        make_plans(results, arguments.plans, arguments.data_dir)
        return
    for (runtime, precision), shape in product(PRECISIONS, SHAPES):
        texts = tokenize(load_task("docstrings").train, load_tokenizer(resolve_model("minilm")))
        results.run(
            f"{runtime}-{precision}-{shape[0]}x{shape[1]}",
            lambda r=runtime, p=precision, s=shape, t=texts: {"models": measure(r, p, s, t)},
            {"runtime": runtime, "precision": precision, "batch_size": shape[0], "length": shape[1]},
            seed=0,
        )


if __name__ == "__main__":
    main()
