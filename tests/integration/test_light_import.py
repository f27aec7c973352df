"""A process that only loads models needs torch, transformers, safetensors and numpy, and waits for nothing more."""

import subprocess
import sys

import pytest

import bertsurgeon

LIGHT = {"bertsurgeon", "rich", "markdown_it", "mdurl", "pygments"}
"""Packages that loading may add: transformers comes with typer, which brings rich."""

LOAD = """
import sys
import numpy, safetensors.torch, torch, transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.quantizers.base import HfQuantizer
before = set(sys.modules)
import bertsurgeon
bertsurgeon.load_model, bertsurgeon.get_plan, bertsurgeon.is_sparse, bertsurgeon.to_dense
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_loading_imports_no_more_than_it_needs() -> None:
    result = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    assert {"bertsurgeon"} <= set(result.stdout.split()) <= LIGHT


def test_public_names_exist_and_others_do_not() -> None:
    for name in bertsurgeon.__all__:
        assert getattr(bertsurgeon, name).__doc__, name
        assert name in dir(bertsurgeon)
    with pytest.raises(AttributeError, match="no attribute 'magic'"):
        _ = bertsurgeon.magic


def test_every_public_name_says_where_it_is_defined() -> None:
    assert sorted(bertsurgeon.__all__) == sorted(name for names in bertsurgeon._MODULES.values() for name in names)
