"""Weights that are NaN or infinite, tensors without a place, prefixes, and adapters beside a model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from bertsurgeon import load_model
from bertsurgeon.checkpoint import load_as_saved
from common import dense, edit_weights, main, pruned, refused

Tensors = dict[str, torch.Tensor]
NAME = "bert.encoder.layer.1.output.LayerNorm.bias"


def _fill(value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[NAME].fill_(value)


CHANGES: dict[str, Callable[[Tensors], object]] = {
    "NaN": _fill(float("nan")),
    "infinity": _fill(float("inf")),
    "a missing tensor": lambda tensors: tensors.pop(NAME),
    "another shape": lambda tensors: tensors.update({NAME: torch.zeros(64)}),
    "a part of the encoder without a place": lambda tensors: tensors.update(
        {"bert.encoder.layer.1.gate": torch.ones(2)}
    ),
    "a layer too many": lambda tensors: tensors.update({"bert.encoder.layer.2.output.dense.bias": torch.ones(32)}),
    "a part of the head without a place": lambda tensors: tensors.update(
        {"classifier.out_proj.weight": torch.ones(2, 2)}
    ),
}


def attack(folder: Path) -> list[str]:
    lines = []
    for source in (dense(folder / "dense"), pruned(folder / "pruned")):
        for what, change in CHANGES.items():
            model = shutil.copytree(source, folder / "model")
            edit_weights(model / "model.safetensors", change)
            for load in (load_model, load_as_saved):
                lines.append(refused(f"{what} ({source.name}, {load.__name__})", lambda load=load: load(model)))
            shutil.rmtree(model)
    (folder / "dense" / "adapter_config.json").write_text("{}")
    return [*lines, refused("an adapter beside the model", lambda: load_model(folder / "dense"))]


if __name__ == "__main__":
    main(attack)
