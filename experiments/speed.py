"""How much faster pruned encoders of BERT-base's shape run where people deploy them, same runtime and precision.

    python experiments/speed.py --plans runs/minilm-sst2 --data-dir ../shared/data/glue
    python experiments/speed.py

The first command makes the plans: those ``auto`` finds for MiniLM on SST-2, every width doubled and every layer used
twice; once where weights are the budget, once (``timed``) where milliseconds in PyTorch are, as for ``--speedup``, and
once (``int8``) where milliseconds in ONNX Runtime in INT8 are, until as many weights are gone. The second one exports
random models with these plans and times them interleaved: dense, pruned, and the dense model in PyTorch fp32. Weights
are random: right for time, never for accuracy. Finished plans and rows are kept and not made again.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bertsurgeon import (
    Calibration,
    ExportConfig,
    PruneConfig,
    calibrate,
    evaluate,
    export,
    load_model,
    progress,
    save_model,
)
from bertsurgeon.allocation import Cost, FittedMilliseconds, allocate, full_cost, make_allocated_plan
from bertsurgeon.architectures import Architecture, get_architecture
from bertsurgeon.benchmark import open_contender, random_inputs, time_batches
from bertsurgeon.checkpoint import attach_plan, load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.cli.sources import resolve_model
from bertsurgeon.compensation import apply_plan
from bertsurgeon.errors import OptionError
from bertsurgeon.plan import ROLES, Dropped, Grouped, LayerPlan, LowRank, ModelPlan, Units, unit_channels
from bertsurgeon.pruning.auto import plan_auto
from bertsurgeon.pruning.speed import measure_costs
from bertsurgeon.pruning.trials import Place, fit_costs
from bertsurgeon.tasks import get_task, load_task, tokenize
from common import RESULTS, cached

RUNS = Path(__file__).parent.parent / "runs" / "speed"
PLANS = RESULTS / "speed" / "plans"
REMOVED = (0.5, 0.75, 0.88, 0.97)
SHAPES = ((8, 128), (1, 128), (1, 16))
PRECISIONS = (
    ("pytorch", "fp32"),
    ("pytorch", "bf16"),
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
REFERENCE = "dense PyTorch fp32"
"""What most people run; timed beside all others."""
CHUNK = 32
"""Neighbouring channels that aligned groups read and write together."""
SCALE = 2
"""BERT-base is twice as wide and twice as deep as MiniLM-L6."""


def make_plans(folder: str, data_dir: Path) -> None:
    """Writes the doubled plans of ``auto``."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    train = tokenize(load_task("sst2", data_dir).train, tokenizer)
    calibration = calibrate(model, train, PruneConfig(sparsity=0.5), tokenizer)
    architecture = get_architecture(model.config.model_type)
    PLANS.mkdir(parents=True, exist_ok=True)
    data = tokenize(load_task("sst2", data_dir).validation, tokenizer)

    @cache
    def milliseconds() -> Cost:
        return measure_costs(model, architecture, *SHAPES[0])

    @cache
    def int8_milliseconds() -> Cost:
        place = Place("onnx", "int8", random_inputs([model], *SHAPES[0]))
        return double_costs(fit_costs(model, architecture, calibration.curves, place))

    makers: dict[str, Callable[[float], ModelPlan]] = {
        "auto": lambda removed: plan_auto(model, architecture, calibration, PruneConfig(sparsity=removed)),
        "timed": lambda removed: timed_plan(model, architecture, calibration, milliseconds(), removed),
        "int8": lambda removed: timed_plan(model, architecture, calibration, int8_milliseconds(), removed),
    }
    for removed in REMOVED:
        for name, make in makers.items():
            file = PLANS / f"{name}-{removed:g}.json"
            if not file.is_file():
                plan = make(removed)
                cached(
                    f"speed-quality/{name}-{removed:g}",
                    lambda p=plan: evaluate_plan(model, architecture, calibration, p, data, tokenizer),
                )
                double(plan).save(file)  # last: a plan that is there is not made again


def double_costs(costs: FittedMilliseconds) -> FittedMilliseconds:
    """What a part of MiniLM costs once all widths are doubled."""
    return replace(
        costs,
        per_weight=SCALE**2 * costs.per_weight,
        per_input=SCALE * costs.per_input,
        per_output=SCALE * costs.per_output,
        per_channel={name: SCALE * value for name, value in costs.per_channel.items()},
    )


def timed_plan(
    model: PreTrainedModel, architecture: Architecture, calibration: Calibration, costs: Cost, removed: float
) -> ModelPlan:
    """What loses least in as little time as removes this share of the weights, found by halving."""
    curves = calibration.curves
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        try:
            choices = allocate(curves, costs, share * full_cost(curves, costs), groups=False)
        except OptionError:  # leaves nothing
            low = share
            continue
        plan = make_allocated_plan(architecture.name, architecture.shapes(model), curves, choices)
        low, high = (share, high) if plan.sparsity > removed else (low, share)
    return plan


def evaluate_plan(
    model: PreTrainedModel,
    architecture: Architecture,
    calibration: Calibration,
    plan: ModelPlan,
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Accuracy of MiniLM pruned by a plan, one-shot."""
    pruned = apply_plan(
        model,
        architecture,
        plan,
        "sequential",
        batches=calibration.batches,
        curvature=calibration.curvature,
        token_weights=calibration.token_weights,
    )
    return {"sparsity": plan.sparsity, "metrics": evaluate(pruned, data, tokenizer, get_task("sst2"))}


def double(plan: ModelPlan) -> ModelPlan:
    """Twice the widths, twice the layers: the same heads, each twice as wide; neurons in pairs; twice the ranks."""
    layers = []
    for layer in plan.layers:
        shapes = {role: (SCALE * matrix.shape[0], SCALE * matrix.shape[1]) for role, matrix in layer.matrices.items()}
        structures = {
            role: LowRank(SCALE * matrix.structure.rank) if isinstance(matrix.structure, LowRank) else matrix.structure
            for role, matrix in layer.matrices.items()
        }
        units = {}
        for name, kept in layer.units.items():
            if name == "attention":
                units[name] = Units(kept.groups, kept.total, SCALE * kept.width)
            else:
                pairs = tuple(tuple(SCALE * u + i for u in group for i in range(SCALE)) for group in kept.groups)
                units[name] = Units(pairs, SCALE * kept.total, 1)
        layers += [LayerPlan.build(shapes, structures, units)] * SCALE
    return ModelPlan(plan.architecture, tuple(layers))


def grouped_plan(model: PreTrainedModel, aligned: bool, groups: int = 2) -> ModelPlan:
    """Every matrix in two groups: aligned with heads and neurons, or with random permutations like those of ``pgb``.

    Aligned groups read and write the residual stream in random chunks of ``CHUNK`` channels.
    """
    architecture = get_architecture(model.config.model_type)
    generator = torch.Generator().manual_seed(0)

    def split(size: int, mixed: bool, chunk: int = 1) -> tuple[tuple[int, ...], ...]:
        count = size // chunk
        order = torch.randperm(count, generator=generator) if mixed else torch.arange(count)
        return tuple(unit_channels(sorted(part.tolist()), chunk) for part in order.chunk(groups))

    layers = []
    for shapes in architecture.shapes(model):
        hidden, wide = shapes["intermediate"][1], shapes["intermediate"][0]
        structures: dict[Any, Any] = {}
        if aligned:
            inputs, outputs = split(hidden, True, CHUNK), split(hidden, True, CHUNK)
            own, neurons = split(hidden, False), split(wide, False)
            structures = dict.fromkeys(("query", "key", "value"), Grouped(own, inputs))
            structures["attention_output"] = Grouped(outputs, own)
            structures["intermediate"] = Grouped(neurons, split(hidden, True, CHUNK))
            structures["output"] = Grouped(split(hidden, True, CHUNK), neurons)
        else:
            structures = {role: Grouped(split(shape[0], True), split(shape[1], True)) for role, shape in shapes.items()}
        layers.append(LayerPlan.build(shapes, structures))
    return ModelPlan(architecture.name, tuple(layers))


def variants() -> dict[str, Any]:
    """Plans by name; None for the dense model."""
    found: dict[str, Any] = {"dense": lambda model: None}
    for removed in REMOVED:
        for name in (f"auto-{removed:g}", f"timed-{removed:g}", f"int8-{removed:g}"):
            found[name] = lambda model, p=PLANS / f"{name}.json": ModelPlan.load(p)
    found["aligned-0.5"] = lambda model: grouped_plan(model, True)
    found["pgb-0.5"] = lambda model: grouped_plan(model, False)
    found["first-3-auto-0.5"] = lambda model: first_layers(ModelPlan.load(PLANS / "auto-0.5.json"), 3)
    return found


def first_layers(plan: ModelPlan, count: int) -> ModelPlan:
    """What a plan keeps of the first layers, and nothing of the others."""
    shapes = {role: matrix.shape for role, matrix in plan.layers[0].matrices.items()}
    empty = LayerPlan.build(shapes, dict.fromkeys(ROLES, Dropped()))
    return ModelPlan(plan.architecture, (*plan.layers[:count], *(empty for _ in plan.layers[count:])))


def build(name: str) -> Path:
    """A folder with the random model."""
    folder = RUNS / name
    if not folder.is_dir():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(BertConfig(num_labels=2)).eval()
        plan = variants()[name](model)
        if plan is not None:
            model = apply_plan(model, get_architecture("bert"), plan, "none")
            attach_plan(model, plan)
        tokenizer = load_tokenizer(resolve_model("minilm"))
        assert isinstance(tokenizer, BertTokenizerFast)
        save_model(model, folder, tokenizer)
    return folder


def prepare(name: str, runtime: str, precision: str, texts: Dataset) -> str:
    """What ``bench`` takes: a folder to be run in PyTorch, or an exported one."""
    folder = build(name)
    if runtime == "pytorch":
        return str(folder) if precision == "fp32" else f"{folder}@bf16"
    exported = RUNS / f"{name}-{runtime}-{precision}"
    if not exported.is_dir():
        config = ExportConfig(runtime, precision, samples=32, tolerance=float("inf"))  # type: ignore[arg-type]
        export(load_model(folder), exported, config, texts, load_tokenizer(folder))
    return str(exported)


def measure(runtime: str, precision: str, shape: tuple[int, int], texts: Dataset) -> dict[str, Any]:
    names = {
        name: prepare(name, runtime, precision, texts)
        for name in variants()
        if not name.startswith("timed" if precision == "int8" else "int8")
    }
    opened = {name: open_contender(path) for name, path in (names | {REFERENCE: str(build("dense"))}).items()}
    models = {name: contender.model for name, contender in opened.items()}
    batches = [random_inputs(list(models.values()), *shape)]
    latencies = time_batches(models, batches, runs=30, seconds=120)
    return {
        name: {
            "speedup": latencies["dense"].p50_ms / found.p50_ms,
            "speedup_to_reference": latencies[REFERENCE].p50_ms / found.p50_ms,
            **vars(found),
            "file_bytes": opened[name].file_bytes,
            "encoder_weights": opened[name].encoder_weights,
        }
        for name, found in latencies.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", help="folder of the fine-tuned MiniLM; makes the plans, and nothing else")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    if arguments.plans:
        make_plans(arguments.plans, arguments.data_dir)
        return
    for runtime, precision in PRECISIONS:
        for shape in SHAPES:
            tokenizer = load_tokenizer(resolve_model("minilm"))
            texts = tokenize(load_task("docstrings").train, tokenizer)
            name = f"speed/{runtime}-{precision}-{shape[0]}x{shape[1]}"
            cached(name, lambda r=runtime, p=precision, s=shape, t=texts: {"models": measure(r, p, s, t)})


if __name__ == "__main__":
    main()
