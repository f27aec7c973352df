"""Single layers: grouped, low rank and dropped, in training, for inference, and in the Triton kernel."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bertsurgeon import GroupedLinear
from bertsurgeon.compensation import Compensation
from bertsurgeon.errors import PlanError
from bertsurgeon.layers import DroppedLinear, make_linear
from bertsurgeon.plan import (
    Dense,
    Grouped,
    LowRank,
)

NAMES = ["bert", "distilbert", "roberta"]
MODES: tuple[Compensation, ...] = get_args(Compensation)
Batches = list[dict[str, Tensor]]
Factory = Callable[..., PreTrainedModel]
LogitsOf = Callable[[PreTrainedModel, dict[str, Tensor]], Tensor]

OUTPUTS, INPUTS = 8, 6
STRUCTURES = {
    "even": Grouped(((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 1, 2), (3, 4, 5))),
    "permuted": Grouped(((0, 2, 5, 7), (1, 3, 4, 6)), ((1, 2, 5), (0, 3, 4))),
    "rows permuted": Grouped(((0, 2, 5, 7), (1, 3, 4, 6)), ((0, 1, 2), (3, 4, 5))),
    "uneven": Grouped(((0, 3, 7), (1, 4, 6), (2, 5)), ((5,), (0, 2, 4), (1, 3))),
    "removed": Grouped(((1, 4), (0, 7)), ((2, 3, 5), (0,))),
    "rows removed": Grouped(((6,), (2, 3)), ((0, 1, 2), (3, 4, 5))),
    "units removed": Grouped(((0, 3, 4, 5, 7),), ((1, 2),)),
    "one group": Grouped((tuple(range(OUTPUTS)),), (tuple(range(INPUTS)),)),
}


def mask_of(structure: Grouped, shape: tuple[int, int]) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for rows, columns in zip(structure.row_groups, structure.column_groups, strict=True):
        mask[torch.tensor(rows).unsqueeze(1), torch.tensor(columns)] = True
    return mask


def executed_weight(layer: nn.Module, inputs: int) -> Tensor:
    """Returns the matrix that a layer applies, measured one input channel at a time."""
    with torch.no_grad():
        result: Tensor = layer(torch.eye(inputs)) - layer(torch.zeros(1, inputs))
    return result.T


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("shape", [(5, INPUTS), (2, 3, INPUTS), (1, 1, INPUTS)])
def test_inference_agrees_with_training(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(5)
    weight, bias = torch.randn(OUTPUTS, INPUTS, generator=generator), torch.randn(OUTPUTS, generator=generator)
    layer = GroupedLinear.from_dense(STRUCTURES[name], weight, bias)
    x = torch.randn(shape, generator=generator)
    training = layer(x)
    with torch.no_grad():
        inference = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            halved = layer(x)
    assert torch.allclose(inference, training, atol=1e-6)
    assert torch.allclose(halved.float(), training, atol=0.2)
    with torch.inference_mode():
        assert torch.allclose(layer.bfloat16()(x.bfloat16()).float(), training, atol=0.2)


def test_the_kernel_agrees_with_pytorch() -> None:
    """Runs Triton's interpreter in a new process, since it is chosen when Triton is first imported."""
    pytest.importorskip("triton")
    groups = [(structure.row_groups, structure.column_groups) for structure in STRUCTURES.values()]
    code = f"""
from itertools import product
import torch
from bertsurgeon import GroupedLinear
from bertsurgeon.plan import Grouped
torch.manual_seed(0)
for groups, bias, activation in product({groups}, (torch.randn({OUTPUTS}), None), ("none", "gelu")):
    layer = GroupedLinear.from_dense(Grouped(*groups), torch.randn({OUTPUTS}, {INPUTS}), bias)
    layer.activation = activation
    x = torch.randn(3, 30, {INPUTS})
    expected = layer(x)
    calls, run = [], layer._run_kernel
    layer._run_kernel = lambda x: calls.append(1) or run(x)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-5)
        assert torch.allclose(layer.half()(x.half()).float(), expected, atol=0.02)
    assert len(calls) == 2
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_kernel_compiles_for_a_gpu(dtype: str) -> None:
    """The interpreter accepts what the compiler refuses, such as annotations; machine code is made without a GPU."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bertsurgeon.layers.triton_grouped import grouped_kernel

    constants = {"HAS_BIAS": True, "GELU": True, "BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32}
    pointers = dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "output_ptr"), f"*{dtype}")
    indices = {"column_ptr": "*i64", "row_ptr": "*i64", "tile_ptr": "*i32"}
    numbers = dict.fromkeys(("tokens", "weight_stride", "x_stride", "output_stride"), "i32")
    signature = {**pointers, **indices, **numbers, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(grouped_kernel, signature=signature, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@pytest.mark.parametrize("leading", [(5,), (3, 4), (2, 3, 2), ()], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_grouped_linear_is_its_dense_twin(name: str, bias: bool, leading: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    structure = STRUCTURES[name]
    dense, offset = torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS) if bias else None
    layer = GroupedLinear.from_dense(structure, dense, offset)
    twin = layer.dense_weight()
    assert torch.equal(twin, dense * mask_of(structure, (OUTPUTS, INPUTS)))
    assert sum(len(r) * len(c) for r, c in zip(structure.row_groups, structure.column_groups, strict=True)) == int(
        (twin != 0).sum()
    )

    x, x_twin = (
        value.requires_grad_() for value in [torch.randn(*leading, INPUTS)] for value in (value, value.clone())
    )
    twin.requires_grad_()
    output, expected = layer(x), F.linear(x_twin, twin, offset)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)

    weighting = torch.randn_like(expected)
    (output * weighting).sum().backward()
    (expected * weighting).sum().backward()
    assert x.grad is not None
    assert x_twin.grad is not None
    assert twin.grad is not None
    torch.testing.assert_close(x.grad, x_twin.grad, rtol=1e-5, atol=1e-5)
    blocks = GroupedLinear.from_dense(structure, twin.grad, None).weight
    torch.testing.assert_close(layer.weight.grad, blocks.data, rtol=1e-5, atol=1e-5)
    if bias:
        assert layer.bias is not None
        expected_bias = weighting.reshape(-1, OUTPUTS).sum(0)
        torch.testing.assert_close(layer.bias.grad, expected_bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", STRUCTURES)
def test_parameters_of_grouped_linear(name: str) -> None:
    structure = STRUCTURES[name]
    layer = GroupedLinear(INPUTS, OUTPUTS, structure)
    widest = max(len(columns) for columns in structure.column_groups)
    assert layer.weight.shape == (sum(len(rows) for rows in structure.row_groups), widest)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_grouped_linear_in_other_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = GroupedLinear.from_dense(
        STRUCTURES["uneven"], torch.randn(OUTPUTS, INPUTS, dtype=dtype), torch.randn(OUTPUTS, dtype=dtype)
    )
    x = torch.randn(3, INPUTS, dtype=dtype)
    output = layer(x)
    assert output.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(output, F.linear(x, layer.dense_weight(), layer.bias), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("leading", [(5,), (2, 3)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_dropped_linear_is_its_bias(bias: bool, leading: tuple[int, ...]) -> None:
    offset = torch.arange(4.0) if bias else None
    layer = DroppedLinear.from_dense(torch.ones(4, 3), offset)
    expected = torch.zeros(*leading, 4) + (0 if offset is None else offset)
    assert torch.equal(layer(torch.randn(*leading, 3)), expected)
    assert torch.equal(layer.dense_weight(), torch.zeros(4, 3))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_low_rank_linear_is_the_truncated_decomposition(bias: bool) -> None:
    torch.manual_seed(0)
    weight, offset = torch.randn(7, 5), torch.randn(7) if bias else None
    layer = make_linear(LowRank(2), weight, offset)
    U, S, V = torch.linalg.svd(weight)
    torch.testing.assert_close(executed_weight(layer, 5), (U[:, :2] * S[:2]) @ V[:2], rtol=0, atol=1e-5)
    x = torch.randn(3, 4, 5)
    expected = F.linear(x, layer.dense_weight(), offset)  # type: ignore[operator]
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)
    full = make_linear(LowRank(5), weight, offset)
    torch.testing.assert_close(executed_weight(full, 5), weight, rtol=0, atol=1e-5)


def test_structures_that_do_not_fit() -> None:
    with pytest.raises(PlanError):
        GroupedLinear(INPUTS - 1, OUTPUTS, STRUCTURES["even"])


def test_dense_matrices_can_be_made() -> None:
    weight, bias = torch.randn(4, 3), torch.randn(4)
    layer = make_linear(Dense(), weight, bias)
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.bias, bias)
