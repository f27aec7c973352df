"""Values of other types in a plan, in the entry of a checkpoint, in a calibration and in a manifest."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from bertsurgeon import AutoConfig, Calibration, Sparsity, calibrate, load_model, open_exported
from bertsurgeon.runtime import MANIFEST
from bertsurgeon.testing import toy_classifier
from common import SMALL_MANIFEST, dense, edit, main, pruned, refused

VALUES: tuple[Any, ...] = (None, True, -1, 10**30, 0.5, "x", [], [[]], {}, {"a": 1}, "0-1", ["x"])

ENTRIES = {
    "plan": ("quantization_config", "plan"),
    "layers": ("quantization_config", "plan", "layers"),
    "a layer": ("quantization_config", "plan", "layers", 0),
    "a matrix": ("quantization_config", "plan", "layers", 0, "query"),
    "a shape": ("quantization_config", "plan", "layers", 0, "query", "shape"),
    "units": ("quantization_config", "plan", "layers", 0, "units"),
    "format_version": ("quantization_config", "format_version"),
    "sparse": ("quantization_config", "sparse"),
    "digests": ("quantization_config", "digests"),
}
ACCEPTED = {("units", "{}"), ("units", "{'a': 1}"), ("sparse", "None"), ("digests", "None")}


def attack(folder: Path) -> list[str]:
    lines = []
    source = pruned(folder / "pruned")
    for what, path in ENTRIES.items():
        for value in VALUES:
            model = shutil.copytree(source, folder / "model")
            edit(model / "config.json", lambda config, path=path, value=value: _set(config, path, value))
            if (what, repr(value)) not in ACCEPTED:
                lines.append(refused(f"{value!r} as {what}", lambda: load_model(model)))
            shutil.rmtree(model)
    lines += _calibrations(folder)
    export = dense(folder / "export")
    (export / "model.onnx").write_bytes(b"graph")
    for name in SMALL_MANIFEST:
        for value in VALUES:
            content = {**SMALL_MANIFEST, name: value}
            (export / MANIFEST).write_text(json.dumps(content))
            lines.append(refused(f"{value!r} as {name} of a manifest", lambda: open_exported(export)))
    return lines


def _calibrations(folder: Path) -> Iterator[str]:
    model, tokenizer, rows = toy_classifier()
    calibrate(model, AutoConfig(Sparsity(0.5), samples=16), list(rows["text"]), tokenizer).save(folder / "calibration")
    file = folder / "calibration" / "calibration.safetensors"
    save_file(load_file(file), file)  # without digests
    data = folder / "calibration" / "calibration.json"
    original = data.read_text()
    for path in (
        ("format_version",),
        ("batches",),
        ("curves",),
        ("curves", 0),
        ("curves", 0, "options"),
        ("curves", 0, "layer"),
    ):
        for value in VALUES:
            content = json.loads(original)
            _set(content, path, value)
            data.write_text(json.dumps(content))
            if not (path[-1] == "options" and value == []):
                yield refused(
                    f"{value!r} as {path[-1]} of a calibration", lambda: Calibration.load(folder / "calibration")
                )
    data.write_text(original)


def _set(content: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        content = content.setdefault(key, {}) if isinstance(content, dict) else content[key]
    content[path[-1]] = value


if __name__ == "__main__":
    main(attack)
