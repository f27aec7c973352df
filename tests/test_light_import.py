"""A process that only loads models needs torch, transformers, safetensors and numpy, and waits for nothing more."""

import subprocess
import sys

import pytest

import bertsurgeon

HEAVY = ("datasets", "pandas", "pyarrow", "sklearn", "seqeval", "accelerate", "typer", "pydantic", "onnx", "openvino")
"""Packages that loading a model must not import; scipy and the like come with transformers already."""

LOAD = """
import sys
import torch, transformers, safetensors
from transformers import AutoModelForSequenceClassification, PreTrainedModel
before = set(sys.modules)
import bertsurgeon
bertsurgeon.load_model, bertsurgeon.get_plan, bertsurgeon.is_sparse, bertsurgeon.to_dense
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_loading_imports_no_more_than_it_needs() -> None:
    result = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    imported = set(result.stdout.split())
    assert "bertsurgeon" in imported
    assert not imported & set(HEAVY)


def test_public_names_exist_and_others_do_not() -> None:
    for name in bertsurgeon.__all__:
        assert getattr(bertsurgeon, name).__doc__, name
        assert name in dir(bertsurgeon)
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = bertsurgeon.magic
