"""Some kilobytes of ``config.json`` that ask for gigabytes: ranges of channels, layers, widths."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification

from bertsurgeon import ModelPlan, load_model, verify
from bertsurgeon.checkpoint import load_as_saved
from common import dense, edit, main, pruned, refused

RANGE = "0-16777214"
Config = dict[str, Any]


def _layers(config: Config) -> Any:
    return config["quantization_config"]["plan"]["layers"]


def _ranges(config: Config) -> None:
    grouped = {"shape": [16777215, 16777215], "kind": "grouped", "rows": [RANGE] * 50, "columns": [RANGE] * 50}
    for layer in _layers(config):
        layer.update(query=grouped)


def _units(config: Config) -> None:
    for layer in _layers(config):
        layer["units"] = {"feed_forward": {"kept": [RANGE] * 20, "total": 16777215, "width": 1}}


def _dropped_width(config: Config) -> None:
    config["intermediate_size"] = 2**23
    for layer in _layers(config):
        layer.pop("units", None)
        layer["intermediate"] = {"shape": [2**23, 32], "kind": "dropped"}
        layer["output"] = {"shape": [32, 2**23], "kind": "dropped"}


def _many_layers(config: Config) -> None:
    config["num_hidden_layers"] = 10**6


PRUNED: dict[str, Callable[[Config], object]] = {
    "50 ranges of 16 million channels": _ranges,
    "20 ranges of 16 million units": _units,
    "a dropped sub-layer of 8 million neurons": _dropped_width,
    "a million layers in the plan": lambda config: _layers(config).extend(_layers(config)[:1] * 100_000),
}
BOTH: dict[str, Callable[[Config], object]] = {
    "a million layers": _many_layers,
    "10^30 layers": lambda config: config.update(num_hidden_layers=10**30),
    "a width of 2^20": lambda config: config.update(hidden_size=2**20, intermediate_size=2**20),
    "2^40 tokens": lambda config: config.update(vocab_size=2**40),
    "2^31 positions": lambda config: config.update(max_position_embeddings=2**31),
    "4 million labels": lambda config: config.update(num_labels=2**22),
}


def attack(folder: Path) -> list[str]:
    lines = []
    sources = {"dense": dense(folder / "dense"), "pruned": pruned(folder / "pruned")}
    for name, changes in {"dense": BOTH, "pruned": {**BOTH, **PRUNED}}.items():
        for what, change in changes.items():
            model = shutil.copytree(sources[name], folder / "model")
            edit(model / "config.json", change)
            loaders = [load_model, load_as_saved]
            if "16 million" in what:
                loaders.append(AutoModelForSequenceClassification.from_pretrained)
            for load in loaders:
                lines.append(refused(f"{what} ({name}, {load.__name__})", lambda load=load, model=model: load(model)))
            faults = verify(model).faults
            assert faults, f"{what}: verify finds nothing"
            shutil.rmtree(model)
    edit(sources["pruned"] / "config.json", _ranges)
    plan = folder / "plan.json"
    shutil.copy(sources["pruned"] / "config.json", plan)
    edit(plan, lambda content: content.update(content.pop("quantization_config")["plan"]))
    return [*lines, refused("ranges in a plan of its own", lambda: ModelPlan.load(plan))]


if __name__ == "__main__":
    main(attack)
