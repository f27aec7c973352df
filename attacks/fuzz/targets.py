"""What is fuzzed: for each kind of file a folder as our own commands write it, mutations, and what reads it.

A case is fine if the mutated file is refused by a ``BertSurgeonError``, or read as exactly what was written; files
without digests may be read as something else that is valid. Anything else is a failure.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from bertsurgeon import (
    AutoConfig,
    Calibration,
    ModelPlan,
    ObertConfig,
    PgbConfig,
    Sparsity,
    calibrate,
    prune,
    save_model,
)
from bertsurgeon.checkpoint import load_model
from bertsurgeon.errors import BertSurgeonError
from bertsurgeon.gradual.recipe_files import PACKAGED, load_recipe
from bertsurgeon.runtime import MANIFEST, Manifest
from bertsurgeon.runtime.manifest import LATER_ENTRIES
from bertsurgeon.tasks import load_user_task
from bertsurgeon.testing import toy_classifier
from bertsurgeon.workflows.verify import verify
from fuzz.mutations import Mutation, mutate_json, mutate_safetensors, mutate_text, mutate_value

SAME, OTHER, REFUSED = "read as it was written", "read as another valid file", "refused"


@dataclass
class Target:
    """One kind of file.

    Attributes:
        folder: Where its files are; a case changes one and restores it.
        files: Mutations by file name.
        read: Reads the folder; returns what can be compared, and raises a ``BertSurgeonError``.
        is_sealed: Whether digests are to reveal every change of what is read.
        weight: Relative number of cases.
        allowed: Further errors that are fine, of other libraries.
    """

    folder: Path
    files: dict[str, Mutation]
    read: Callable[[Path], Any]
    is_sealed: bool
    weight: int
    allowed: tuple[type[Exception], ...] = ()

    def __post_init__(self) -> None:
        """Reads the files as they were written."""
        self.originals = {name: (self.folder / name).read_bytes() for name in self.files}
        self.expected = self.read(self.folder)

    def case(self, random: Random) -> str:
        """Runs one case; returns its outcome.

        Raises:
            AssertionError: If a changed file is read as something else although digests should tell.
            Exception: Whatever else the reader raises, which is a failure.
        """
        name = random.choice(sorted(self.files))
        content = self.files[name](self.originals[name], random)
        (self.folder / name).write_bytes(content)
        try:
            result = self.read(self.folder)
        except (BertSurgeonError, *self.allowed) as error:
            if isinstance(error, BertSurgeonError):
                _check_sentence(str(error))
            return REFUSED
        finally:
            (self.folder / name).write_bytes(self.originals[name])
        if _is_equal(result, self.expected):
            return SAME
        assert not self.is_sealed, f"{name} was changed and is read as something else"
        return OTHER


def _check_sentence(text: str) -> None:
    assert text.strip(), "an error without a sentence"
    assert "\n" not in text, f"more than one line: {text}"
    assert len(text) < 2000, "an endless sentence"


def _is_equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    return bool(first == second)


def make_targets(folder: Path) -> dict[str, Target]:
    """Writes the seed corpus into an empty folder, and returns the targets by name."""
    model, tokenizer, rows = toy_classifier()
    texts = list(rows["text"])
    batch = tokenizer(texts[:4], padding=True, return_tensors="pt")

    def answers(loaded: PreTrainedModel) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = loaded.eval()(**batch).logits
        return logits

    def from_pretrained(path: Path) -> torch.Tensor:
        return answers(AutoModelForSequenceClassification.from_pretrained(path))

    config = AutoConfig(Sparsity(0.5), samples=16)
    measured = calibrate(model, config, texts, tokenizer)
    pruned = {
        "auto": prune(model, config, measured).model,
        "pgb": prune(
            model, PgbConfig(Sparsity(0.5), importance="magnitude", compensation="none"), texts, tokenizer
        ).model,
        "obert": prune(model, ObertConfig(Sparsity(0.5), samples=16), texts, tokenizer).model,
    }
    checkpoint: dict[str, Mutation] = {"config.json": mutate_json, "model.safetensors": mutate_safetensors}
    targets: dict[str, Target] = {}
    for name, network in {"dense": model, **pruned}.items():
        save_model(network, folder / name)
        targets[f"checkpoint {name}"] = Target(
            folder / name, checkpoint, lambda path: answers(load_model(path)), True, 2
        )
        targets[f"checkpoint {name}, without digests"] = Target(
            _unsealed(folder / name), checkpoint, lambda path: answers(load_model(path)), False, 2
        )
        if name != "dense":
            targets[f"from_pretrained {name}"] = Target(
                folder / name, checkpoint, from_pretrained, True, 1, (Exception,)
            )
    plan = pruned["auto"].config.quantization_config.plan
    (folder / "plan").mkdir()
    plan.save(folder / "plan" / "plan.json")
    targets["plan"] = Target(folder / "plan", {"plan.json": mutate_json}, _read_plan, False, 200)
    measured.save(folder / "calibration")
    files = {"calibration.json": mutate_json, "calibration.safetensors": mutate_safetensors}
    targets["calibration"] = Target(folder / "calibration", files, _read_calibration, True, 12)
    bare = shutil.copytree(folder / "calibration", folder / "calibration-bare")
    save_file(load_file(bare / "calibration.safetensors"), bare / "calibration.safetensors")
    targets["calibration, without digests"] = Target(bare, files, _read_calibration, False, 12)
    (folder / "export").mkdir()
    (folder / "export" / "model.onnx").write_bytes(b"graph")
    Manifest("onnx", "int8", ("input_ids",), ("logits",), 1000, ("a", "b"), {"error": 0.1}, "static").save(
        folder / "export"
    )
    targets["manifest"] = Target(
        folder / "export", {MANIFEST: mutate_json, "model.onnx": mutate_text}, _read_manifest, True, 150
    )
    released = shutil.copytree(folder / "export", folder / "export-bare")
    content = json.loads((released / MANIFEST).read_text())
    for name in LATER_ENTRIES:
        del content[name]
    (released / MANIFEST).write_text(json.dumps({**content, "format_version": 1}))
    targets["manifest of 0.1.0"] = Target(released, {MANIFEST: mutate_json}, _read_manifest, False, 150)
    (folder / "recipe").mkdir()
    for number, recipe in enumerate(sorted(PACKAGED.iterdir(), key=str)):
        (folder / "recipe" / f"{number}.yaml").write_bytes(recipe.read_bytes())
    recipes = {f"{number}.yaml": _mutate_yaml for number in range(number + 1)}
    targets["recipe"] = Target(folder / "recipe", recipes, _read_recipes, False, 5)
    _write_data(folder / "data")
    for name, mutation in _DATA.items():
        targets[f"data {name}"] = Target(folder / "data", {name: mutation}, partial(_read_data, name), False, 2)
    targets["verify"] = Target(folder / "auto", checkpoint, _verify, False, 1)
    return targets


def _unsealed(folder: Path) -> Path:
    bare = shutil.copytree(folder, folder.with_name(f"{folder.name}-bare"))
    config = json.loads((bare / "config.json").read_text())
    config.get("quantization_config", {}).pop("digests", None)
    (bare / "config.json").write_text(json.dumps(config))
    save_file(load_file(bare / "model.safetensors"), bare / "model.safetensors", {"format": "pt"})
    return bare


def _read_plan(folder: Path) -> Any:
    plan = ModelPlan.load(folder / "plan.json")
    assert ModelPlan.from_dict(plan.to_dict()) == plan
    return plan


def _read_calibration(folder: Path) -> Any:
    loaded = Calibration.load(folder)
    curves = [(c.layer, c.sub_layer, c.total, c.width, [o.error for o in c.candidates]) for c in loaded.curves]
    sums = {str(key): float(value.sum()) for key, value in loaded.curvature.items()}
    return repr((loaded.model, loaded.settings, curves, sums))


def _read_manifest(folder: Path) -> Any:
    manifest = Manifest.load(folder)
    manifest.check_files(folder)
    return manifest


def _mutate_yaml(content: bytes, random: Random) -> bytes:
    if random.random() < 0.4:
        return mutate_text(content, random)
    return yaml.safe_dump(mutate_value(yaml.safe_load(content), random)).encode()


def _read_recipes(folder: Path) -> Any:
    return [load_recipe(file) for file in sorted(folder.iterdir())]


_DATA: dict[str, Mutation] = {
    "rows.csv": mutate_text,
    "rows.jsonl": mutate_text,
    "rows.json": mutate_json,
    "squad.json": mutate_json,
}


def _write_data(folder: Path) -> None:
    folder.mkdir()
    rows = [
        {"text": f"the film, number {n}, was {('dull', 'fine')[n % 2]}", "label": ("bad", "good")[n % 2]}
        for n in range(12)
    ]
    (folder / "rows.csv").write_text("text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rows.json").write_text(json.dumps(rows))
    answers = {"text": "a warm film", "answer_start": 8}
    question = {"id": "1", "question": "What was it?", "answers": [answers]}
    paragraphs = [{"context": "It was, a warm film of old.", "qas": [question, {**question, "id": "2"}]}]
    (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))


def _read_data(name: str, folder: Path) -> Any:
    data = load_user_task(folder / name, folder / name)
    return [part.to_list() for part in (data.train, data.validation)]


def _verify(folder: Path) -> Any:
    result = verify(folder)
    try:
        load_model(folder)
    except BertSurgeonError:
        assert result.faults, "load_model refuses what verify accepts"
    return result.faults
