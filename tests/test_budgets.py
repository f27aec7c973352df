"""Budgets as values: what they accept, and which method accepts them."""

from typing import Any

import numpy as np
import pytest

from bertsurgeon import AutoConfig, Flops, Groups, ObertConfig, PgbConfig, Sparsity, Speedup, Threshold
from bertsurgeon.budgets import Budget
from bertsurgeon.errors import OptionError


@pytest.mark.parametrize(
    ("budget", "arguments", "words"),
    [
        (Sparsity, (0.0,), "between 0 and 1"),
        (Sparsity, (1.0,), "between 0 and 1"),
        (Sparsity, (float("nan"),), "between 0 and 1"),
        (Flops, (1.5,), "between 0 and 1"),
        (Flops, (0.5, 0), "at least 1 token"),
        (Speedup, (1.0,), "greater than 1"),
        (Speedup, (float("inf"),), "greater than 1"),
        (Speedup, (2, "torch"), "runtime must be one of pytorch, onnx, openvino"),
        (Speedup, (2, "onnx", "fp16"), "precision must be one of fp32, bf16, int8"),
        (Speedup, (2, "onnx", "bf16"), "openvino"),
        (Speedup, (2, "pytorch", "int8"), "fp32"),
        (Speedup, (2, "pytorch", "fp32", 0), "at least 1 text"),
        (Threshold, (-1e-9,), "at least 0"),
        (Threshold, (float("inf"),), "finite"),
        (Groups, (0,), "at least 1"),
        (Sparsity, ("0.5",), "share must be a number, not '0.5'."),
        (Sparsity, (None,), "share must be a number, not None."),
        (Sparsity, (True,), "share must be a number, not True."),
        (Speedup, ("2",), "factor must be a number, not '2'."),
        (Speedup, (2, ["onnx"]), "runtime must be a string"),
        (Threshold, ("1e-5",), "tau must be a number"),
        (Groups, ("4",), "count must be a whole number, not '4'."),
        (Groups, (2.5,), "count must be a whole number, not 2.5."),
        (Groups, (True,), "count must be a whole number, not True."),
        (Flops, (0.5, 1.5), "length must be a whole number, not 1.5."),
    ],
    ids=str,
)
def test_impossible_budgets(budget: Any, arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        budget(*arguments)


@pytest.mark.parametrize(
    ("budget", "amount", "as_dict"),
    [
        (Sparsity(0.5), 0.5, {"kind": "sparsity", "share": 0.5}),
        (Flops(0.25), 0.25, {"kind": "flops", "share": 0.25, "length": 128}),
        (Threshold(1e-5), 1e-5, {"kind": "threshold", "tau": 1e-5}),
        (Groups(3), 3.0, {"kind": "groups", "count": 3}),
    ],
    ids=str,
)
def test_reports_name_kind_and_amount(budget: Budget, amount: float, as_dict: dict[str, Any]) -> None:
    assert budget.amount == amount
    assert budget.to_dict() == as_dict


def test_numbers_of_numpy_become_those_of_python() -> None:
    assert type(Groups(np.int64(4)).count) is int  # type: ignore[arg-type]
    assert type(Sparsity(np.float32(0.5)).share) is float  # type: ignore[arg-type]
    assert Speedup(2).factor == 2


@pytest.mark.parametrize(
    ("config", "budget"),
    [
        (AutoConfig, Threshold(1e-5)),
        (AutoConfig, Groups(2)),
        (PgbConfig, Flops(0.5)),
        (PgbConfig, Speedup(2)),
        (ObertConfig, Groups(2)),
        (ObertConfig, 0.5),
    ],
    ids=str,
)
def test_a_method_refuses_the_budgets_of_others(config: Any, budget: Any) -> None:
    with pytest.raises(OptionError, match=rf"The budget of {config.method} must be one of Sparsity\(…\)"):
        config(budget)
