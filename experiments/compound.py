"""Fewer layers, pruning and INT8, one after the other: quality, and speed against dense PyTorch in fp32.

    python experiments/compound.py --data-dir ../shared/data/glue
    python experiments/compound.py --data-dir ../shared/data/glue --speed

MiniLM on SST-2. Where layers are dropped, the rest is trained for an epoch, distilled from the dense model, before it
is pruned; pruning itself is one-shot, and ``pgb``, whose start is poor, is recovered for a third of an epoch. All are
exported to OpenVINO in INT8. ``--speed`` times them, interleaved with the dense model. Finished steps are kept, as
models in ``runs/compound`` and as JSON, and not run again.
"""

import argparse
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from bertsurgeon import (
    ExportConfig,
    TrainingOptions,
    drop_layers,
    evaluate,
    export,
    load_model,
    progress,
    prune,
    recover,
    save_model,
    train,
)
from bertsurgeon.benchmark import measure_sizes, open_contender
from bertsurgeon.cli.app import quieten_libraries
from common import cached, speedups
from study import RUNS, Subject, load

SHAPES = ((8, 128), (1, 128))
TRAINING = TrainingOptions(epochs=1, learning_rate=1e-4, hardness=1.0, bf16=True)
RECOVERY = TrainingOptions(epochs=1 / 3, learning_rate=5e-5, hardness=1.0, bf16=True)


@dataclass(frozen=True)
class Recipe:
    """How many of the six layers stay, which method prunes them, and the share of their weights it keeps."""

    layers: int
    method: str | None = None
    share: float = 1.0

    @property
    def name(self) -> str:
        """Of its files."""
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


def layers_of(subject: Subject, count: int) -> PreTrainedModel:
    """The dense model, or what is left of it after layers were dropped and the rest was trained."""
    if count == 6:
        return subject.model
    folder = RUNS / "compound" / f"{count}-layers"
    if not folder.is_dir():
        set_seed(subject.seed)
        model, _ = drop_layers(subject.model, count)
        work = folder.with_name(f"{folder.name}.training")
        train(model, subject.train, subject.tokenizer, TRAINING, work, teacher=subject.model, resume=True)
        save_model(model, folder, subject.tokenizer)
        shutil.rmtree(work)
    return load_model(folder)


def build(subject: Subject, recipe: Recipe) -> PreTrainedModel:
    """The model of a recipe, before it is exported."""
    start = layers_of(subject, recipe.layers)
    if recipe.method is None:
        return start
    folder = RUNS / "compound" / recipe.name
    if not folder.is_dir():
        config = subject.config(recipe.share, method=recipe.method)
        model, _ = prune(start, subject.train, config, subject.tokenizer)
        if recipe.method == "pgb":
            recover(model, subject.train, subject.tokenizer, RECOVERY, subject.model)
        save_model(model, folder, subject.tokenizer)
    return load_model(folder)


def exported(subject: Subject, recipe: Recipe) -> Path:
    folder = RUNS / "compound" / f"{recipe.name}-openvino-int8"
    if not folder.is_dir():
        config = ExportConfig("openvino", "int8")
        export(build(subject, recipe), folder, config, subject.train, subject.tokenizer)
    return folder


def quality(subject: Subject, recipe: Recipe) -> dict[str, Any]:
    model = build(subject, recipe)
    contender = open_contender(str(exported(subject, recipe)))
    return {
        "recipe": asdict(recipe),
        "training": asdict(TRAINING) if recipe.layers < 6 else None,
        "recovery": asdict(RECOVERY) if recipe.method == "pgb" else None,
        "kept_share": measure_sizes(model).encoder_weights / measure_sizes(subject.model).encoder_weights,
        "metrics": subject.score(model),
        "int8": evaluate(contender.model, subject.validation, subject.tokenizer, subject.data.task),
        "file_bytes": contender.file_bytes,
    }


def speed(subject: Subject, recipe: Recipe) -> dict[str, Any]:
    model = open_contender(str(exported(subject, recipe))).model
    return {"speedup": speedups(subject.model, model, SHAPES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--speed", action="store_true", help="time the models, instead; wants a quiet machine")
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    subject = load("sst2", 0, arguments.data_dir)
    measure = speed if arguments.speed else quality
    for recipe in RECIPES:
        name = f"compound/{'speed-' if arguments.speed else ''}{recipe.name}"
        cached(name, lambda r=recipe: measure(subject, r))  # type: ignore[misc]


if __name__ == "__main__":
    main()
