"""What the attacks share: small models, what counts as an end, and the output of a script."""

import inspect
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bertsurgeon import AutoConfig, Sparsity, prune, save_model
from bertsurgeon.errors import BertSurgeonError
from bertsurgeon.testing import toy_classifier

Attack = Callable[[Path], list[str]]

MAX_CPU_SECONDS = 5.0
"""Most processor time until a hostile file is refused."""

SMALL_MANIFEST = {
    "format_version": 1,
    "runtime": "onnx",
    "precision": "fp32",
    "inputs": ["input_ids"],
    "outputs": ["logits"],
    "encoder_weights": 1,
}
"""Manifest of an export in the format of 0.1.0, which holds no digests."""


def dense(folder: Path) -> Path:
    """Writes a dense model without digests, as an attacker would; returns its folder."""
    model, tokenizer, _ = toy_classifier()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pruned(folder: Path) -> Path:
    """Writes a pruned model without digests; returns its folder."""
    model, tokenizer, rows = toy_classifier()
    result = prune(model, AutoConfig(Sparsity(0.5), samples=16), list(rows["text"]), tokenizer)
    save_model(result.model, folder, tokenizer)
    edit(folder / "config.json", lambda config: config["quantization_config"].pop("digests"))
    return folder


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def edit_weights(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def refused(what: str, action: Callable[[], object]) -> str:
    """Runs an action that must end in a sentence of ours, soon; returns what happened.

    Raises:
        AssertionError: If it ends in anything else.
    """
    start = time.process_time()
    try:
        result = action()
    except BertSurgeonError as error:
        text = str(error)
        assert text, f"{what}: an error without a sentence"
        assert "\n" not in text, f"{what}: more than one line"
    else:
        raise AssertionError(f"{what}: accepted ({type(result).__name__})")
    seconds = time.process_time() - start
    assert seconds < MAX_CPU_SECONDS, f"{what}: {seconds:.1f} s"
    return f"{what}: refused: {text[:160]}"


def main(attack: Attack) -> None:
    """Runs one attack as a script: prints what happened, and PASS or FAIL."""
    print((inspect.getmodule(attack).__doc__ or "").strip())  # type: ignore[union-attr]
    with TemporaryDirectory() as folder:
        try:
            for line in attack(Path(folder)):
                print(f"- {line}")
        except Exception as error:
            print(f"- {type(error).__name__}: {error}\nFAIL")
            sys.exit(1)
    print("PASS")
