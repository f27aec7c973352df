"""What the tests of ``obert`` share."""

from typing import Any

import torch
from transformers import PreTrainedModel

from bertsurgeon import ObertConfig, Sparsity


def config(sparsity: float = 0.5, **options: Any) -> ObertConfig:
    """The paper's own weights, without compensation."""
    return ObertConfig(Sparsity(sparsity), **{"fisher_damping": 1e-4, "compensation": "none", **options})


def assert_same(first: PreTrainedModel, second: PreTrainedModel) -> None:
    """Asserts that two models have the same parameters, bit for bit."""
    states = [dict(model.named_parameters()) for model in (first, second)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        assert value.dtype == states[1][name].dtype
