"""Models of BERT-base's shape with random weights and the plans of ``auto`` or of groups, to be timed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertTokenizerFast, PreTrainedModel

from bertsurgeon import save_model
from bertsurgeon.architectures import Encoder
from bertsurgeon.checkpoint import attach_plan, load_tokenizer
from bertsurgeon.compensation import apply_plan
from bertsurgeon.plan import ROLES, Dropped, Grouped, LayerPlan, LowRank, ModelPlan, SubLayerName, Units, unit_channels
from bertsurgeon.workflows import resolve_model
from lib.results_store import RUNS, read_result

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
CHUNK = 32
"""Neighboring channels that aligned groups read and write together."""
SCALE = 2
"""BERT-base is twice as wide and twice as deep as MiniLM-L6."""


def scale_up(plan: ModelPlan) -> ModelPlan:
    """Doubles width and depth: the same heads, each twice as wide; neurons in pairs; twice the ranks."""
    layers = []
    for layer in plan.layers:
        shapes = {role: (SCALE * matrix.shape[0], SCALE * matrix.shape[1]) for role, matrix in layer.matrices.items()}
        structures = {
            role: LowRank(SCALE * matrix.structure.rank) if isinstance(matrix.structure, LowRank) else matrix.structure
            for role, matrix in layer.matrices.items()
        }
        units: dict[SubLayerName, Units] = {}
        for name, kept in layer.units.items():
            if name == "attention":
                units[name] = Units(kept.groups, kept.total, SCALE * kept.width)
            else:
                pairs = tuple(tuple(SCALE * u + i for u in group for i in range(SCALE)) for group in kept.groups)
                units[name] = Units(pairs, SCALE * kept.total, 1)
        layers += [LayerPlan.build(shapes, structures, units)] * SCALE
    return ModelPlan(plan.architecture, tuple(layers))


def grouped_plan(model: PreTrainedModel, aligned: bool, groups: int = 2) -> ModelPlan:
    """Plans two groups for every matrix: aligned with heads and neurons, or permuted at random as in ``pgb``.

    Aligned groups read and write the residual stream in random chunks of ``CHUNK`` channels.
    """
    encoder = Encoder(model)
    generator = torch.Generator().manual_seed(0)

    def split(size: int, mixed: bool, chunk: int = 1) -> tuple[tuple[int, ...], ...]:
        count = size // chunk
        order = torch.randperm(count, generator=generator) if mixed else torch.arange(count)
        return tuple(unit_channels(sorted(part.tolist()), chunk) for part in order.chunk(groups))

    layers = []
    for shapes in encoder.shapes:
        hidden, wide = shapes["intermediate"][1], shapes["intermediate"][0]
        structures: dict[Any, Any] = {}
        if aligned:
            inputs, outputs = split(hidden, True, CHUNK), split(hidden, True, CHUNK)
            heads, neurons = split(hidden, False), split(wide, False)
            structures = dict.fromkeys(("query", "key", "value"), Grouped(heads, inputs))
            structures["attention_output"] = Grouped(outputs, heads)
            structures["intermediate"] = Grouped(neurons, split(hidden, True, CHUNK))
            structures["output"] = Grouped(split(hidden, True, CHUNK), neurons)
        else:
            structures = {role: Grouped(split(shape[0], True), split(shape[1], True)) for role, shape in shapes.items()}
        layers.append(LayerPlan.build(shapes, structures))
    return ModelPlan(encoder.architecture.name, tuple(layers))


def keep_first_layers(plan: ModelPlan, count: int) -> ModelPlan:
    """Returns the plan of the first layers; the others are dropped."""
    shapes = {role: matrix.shape for role, matrix in plan.layers[0].matrices.items()}
    empty = LayerPlan.build(shapes, dict.fromkeys(ROLES, Dropped()))
    return ModelPlan(plan.architecture, (*plan.layers[:count], *(empty for _ in plan.layers[count:])))


def read_plan(name: str) -> ModelPlan:
    """Returns a plan that ``speed.py --plans`` made."""
    result = read_result("speed", f"plans/{name}")
    if result is None:
        raise FileNotFoundError(f"No plan {name}: run python experiments/speed.py --plans first.")
    return ModelPlan.from_dict(result["plan"])


PLANS: dict[str, Callable[[PreTrainedModel], ModelPlan | None]] = {
    "dense": lambda model: None,
    **{
        name: lambda model, n=name: read_plan(n)
        for removed in REMOVED
        for name in (f"auto-{removed:g}", f"timed-{removed:g}", f"int8-{removed:g}")
    },
    "aligned-0.5": lambda model: grouped_plan(model, True),
    "pgb-0.5": lambda model: grouped_plan(model, False),
    "first-3-auto-0.5": lambda model: keep_first_layers(read_plan("auto-0.5"), 3),
}
"""Plans for a dense model, by name; None for the dense model itself."""


def build(name: str) -> Path:
    """Returns the folder of the random model with a plan."""
    folder = RUNS / "speed" / name
    if not folder.is_dir():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(BertConfig(num_labels=2)).eval()
        plan = PLANS[name](model)
        if plan is not None:
            model = apply_plan(model, plan, "none")
            attach_plan(model, plan)
        tokenizer = load_tokenizer(resolve_model("minilm"))
        assert isinstance(tokenizer, BertTokenizerFast)
        save_model(model, folder, tokenizer)
    return folder
