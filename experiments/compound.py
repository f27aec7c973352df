"""Fewer layers, pruning and INT8, one after the other: quality, and speed against dense PyTorch in fp32.

    python experiments/compound.py --data-dir ../shared/data/glue
    python experiments/compound.py --data-dir ../shared/data/glue --speed

MiniLM on SST-2. Where layers are dropped, the rest is trained for an epoch, distilled from the dense model, before it
is pruned; pruning itself is one-shot, and ``pgb``, whose start is poor, is recovered for a third of an epoch. All are
exported to OpenVINO in INT8. ``--speed`` times them, interleaved with the dense model. Models are kept in
``runs/compound``.
"""

import shutil
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from bertsurgeon import (
    ExportConfig,
    LayerDropConfig,
    Sparsity,
    TrainingConfig,
    drop_layers,
    evaluate,
    export,
    load_model,
    prune,
    recover,
    save_model,
    train,
)
from bertsurgeon.benchmark import measure_sizes, open_entry
from bertsurgeon.methods.registry import METHODS
from lib.common import make_parser, parse_arguments, speedups
from lib.models import StudyModel, load_study_model
from lib.results_store import RUNS, ResultsStore

SHAPES = ((8, 128), (1, 128))
TRAINING = TrainingConfig(epochs=1, learning_rate=1e-4, distillation_weight=1.0, bf16=True)
RECOVERY = TrainingConfig(epochs=1 / 3, learning_rate=5e-5, distillation_weight=1.0, bf16=True)


@dataclass(frozen=True)
class Recipe:
    """Number of the six layers that are kept, the method that prunes them, and the share of their weights it keeps."""

    layers: int
    method: str | None = None
    share: float = 1.0

    @property
    def name(self) -> str:
        """Name of its row and its files."""
        pruned = "" if self.method is None else f"-{self.method}-{self.share:g}"
        return f"{self.layers}-layers{pruned}"


RECIPES = (
    Recipe(6),
    Recipe(6, "auto", 0.5),
    Recipe(6, "auto", 0.25),
    Recipe(3),
    Recipe(3, "auto", 0.5),
    Recipe(3, "auto", 0.25),
    Recipe(3, "pgb", 0.5),
)


def make_start(dense: StudyModel, count: int) -> PreTrainedModel:
    """Returns the dense model, or one with fewer layers that was trained on."""
    if count == 6:
        return dense.model
    folder = RUNS / "compound" / f"{count}-layers"
    if not folder.is_dir():
        set_seed(dense.seed)
        model = drop_layers(dense.model, LayerDropConfig(count)).model
        work = folder.with_name(f"{folder.name}.training")
        train(model, TRAINING, dense.train, dense.tokenizer, teacher=dense.model, work_dir=work, resume=True)
        save_model(model, folder, dense.tokenizer)
        shutil.rmtree(work)
    return load_model(folder)


def build(dense: StudyModel, recipe: Recipe) -> PreTrainedModel:
    """Returns the model of a recipe, before it is exported."""
    start = make_start(dense, recipe.layers)
    if recipe.method is None:
        return start
    folder = RUNS / "compound" / recipe.name
    if not folder.is_dir():
        config = METHODS[recipe.method].config(Sparsity(1 - recipe.share), seed=dense.seed)
        model = prune(start, config, dense.train, dense.tokenizer).model
        if recipe.method == "pgb":
            recover(model, RECOVERY, dense.train, dense.tokenizer, teacher=dense.model)
        save_model(model, folder, dense.tokenizer)
    return load_model(folder)


def exported(dense: StudyModel, recipe: Recipe) -> Path:
    folder = RUNS / "compound" / f"{recipe.name}-openvino-int8"
    if not folder.is_dir():
        config = ExportConfig("openvino", "int8")
        export(build(dense, recipe), config, dense.train, dense.tokenizer, output=folder)
    return folder


def quality(dense: StudyModel, recipe: Recipe) -> dict[str, Any]:
    model = build(dense, recipe)
    entry = open_entry(str(exported(dense, recipe)))
    return {
        "kept_share": measure_sizes(model).encoder_weights / measure_sizes(dense.model).encoder_weights,
        "metrics": dense.score(model),
        "int8": evaluate(entry.model, dense.data.task, dense.validation, dense.tokenizer),
        "file_bytes": entry.file_bytes,
    }


def speed(dense: StudyModel, recipe: Recipe) -> dict[str, Any]:
    model = open_entry(str(exported(dense, recipe))).model
    return {"speedup": speedups(dense.model, model, SHAPES)}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--speed", action="store_true", help="time the models, instead; needs an idle machine")
    arguments = parse_arguments(parser)
    results = ResultsStore("compound", arguments)
    dense = load_study_model("sst2", 0, arguments.data_dir)
    measure = speed if arguments.speed else quality
    for recipe in RECIPES:
        configuration = {
            **asdict(recipe),
            "training": asdict(TRAINING) if recipe.layers < 6 else None,
            "recovery": asdict(RECOVERY) if recipe.method == "pgb" else None,
        }
        name = f"{'speed-' if arguments.speed else ''}{recipe.name}"
        results.run(name, partial(measure, dense, recipe), configuration, seed=dense.seed)


if __name__ == "__main__":
    main()
