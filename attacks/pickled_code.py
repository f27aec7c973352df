"""Weights, a file named like safetensors, and the state of a training that run a command when they are unpickled."""

import os
from pathlib import Path
from typing import Any

import torch

from bertsurgeon import load_model
from bertsurgeon.checkpoint import load_as_saved
from common import dense, main, refused


class _Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def attack(folder: Path) -> list[str]:
    canary = folder / "executed"
    payload = {"bert.embeddings.word_embeddings.weight": _Command(f"touch {canary}")}
    lines = []
    for name in ("pytorch_model.bin", "model.safetensors"):
        model = dense(folder / name)
        (model / "model.safetensors").unlink()
        torch.save(payload, model / name)
        for load in (load_model, load_as_saved):
            lines.append(refused(f"{load.__name__} of {name}", lambda load=load, model=model: load(model)))
    torch.load(folder / "pytorch_model.bin" / "pytorch_model.bin", weights_only=False)  # the payload works
    assert canary.exists(), "the payload is broken"
    canary.unlink()
    for path in folder.glob("*.*"):
        refused(path.name, lambda path=path: load_model(path))
    assert not canary.exists(), "the command was executed"
    return lines


if __name__ == "__main__":
    main(attack)
