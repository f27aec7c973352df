"""Devices, pipes, folders and endless links in the place of files."""

import os
import shutil
from pathlib import Path

from bertsurgeon import load_model, verify
from bertsurgeon.checkpoint import load_tokenizer
from common import dense, main, pruned, refused


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def attack(folder: Path) -> list[str]:
    lines = []
    for source in (dense(folder / "dense"), pruned(folder / "pruned")):
        for make in (_pipe, _device, _loop, Path.mkdir):
            for name in ("config.json", "model.safetensors", "tokenizer.json"):
                model = shutil.copytree(source, folder / "model")
                (model / name).unlink()
                make(model / name)
                load = load_tokenizer if name == "tokenizer.json" else load_model
                what = f"{name} as {make.__name__.strip('_')} ({source.name})"
                lines.append(refused(what, lambda load=load, model=model: load(model)))
                try:
                    assert name == "tokenizer.json" or verify(model).faults, f"{what}: verify finds nothing"
                except Exception as error:
                    assert "BertSurgeon" in str(type(error).__mro__), f"verify, {what}: {error!r}"
                shutil.rmtree(model)
    return lines


if __name__ == "__main__":
    main(attack)
