"""Aligned groups: how they are found, and their error."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from auto_cases import Batches, Factory, LogitsOf
from bertsurgeon import AutoConfig, Calibration, Sparsity, calibrate, prune, to_dense
from bertsurgeon.architectures import Encoder
from bertsurgeon.errors import OptionError
from bertsurgeon.methods.auto.costs import Cost, Flops, Weights, plan_cost
from bertsurgeon.methods.auto.groups import align_groups, group_error, kept_energy
from bertsurgeon.methods.auto.search import allocate, full_cost, make_allocated_plan
from bertsurgeon.plan import (
    Grouped,
)

NAMES = ["bert", "distilbert", "roberta"]


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_aligned_groups(seed: int, groups: int, steps: int) -> None:
    generator = np.random.default_rng(seed)
    reads, writes = generator.gamma(0.5, size=(12, 9)), generator.gamma(0.5, size=(7, 12))
    found = align_groups(reads, writes, groups, steps)
    for parts, size in ((found.units, 12), (found.inputs, 9), (found.outputs, 7)):
        assert len(parts) == groups
        assert sorted(np.concatenate(parts).tolist()) == list(range(size))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if groups == 2:
        more = align_groups(reads, writes, groups, steps + 1)
        assert kept_energy(reads, writes, more) >= kept_energy(reads, writes, found) - 1e-9


def test_groups_of_neighbouring_channels(tiny_model: Callable[..., PreTrainedModel], tiny_batches: Batches) -> None:
    options = {"structures": ("groups",), "samples": 24}
    _, report = prune(tiny_model("bert"), AutoConfig(Sparsity(0.5), group_chunk=4, **options), tiny_batches)
    found = 0
    for layer in report.plan.layers:
        for role, own in (("query", "column_groups"), ("intermediate", "column_groups"), ("output", "row_groups")):
            structure = layer.matrices[role].structure
            if isinstance(structure, Grouped):
                found += 1
                for group in getattr(structure, own):
                    assert all(channel // 4 * 4 + i in group for channel in group for i in range(4))
    assert found
    with pytest.raises(OptionError, match="do not divide"):
        prune(tiny_model("bert"), AutoConfig(Sparsity(0.5), group_chunk=5, **options), tiny_batches)


def test_hidden_groups_are_found() -> None:
    """A sub-layer that is grouped already, its channels shuffled."""
    generator = np.random.default_rng(0)
    units, inputs, outputs = (generator.permutation(np.repeat(np.arange(2), size)) for size in (6, 7, 3))
    reads = (units[:, None] == inputs[None, :]) * generator.uniform(1, 2, size=(12, 14))
    writes = (outputs[:, None] == units[None, :]) * generator.uniform(1, 2, size=(6, 12))
    found = align_groups(reads, writes, 2)
    assert kept_energy(reads, writes, found) == pytest.approx(reads.sum() + writes.sum())
    with pytest.raises(ValueError, match="power of two"):
        align_groups(reads, writes, 3)


@pytest.mark.parametrize("name", NAMES)
def test_groups_alone(
    name: str, tiny_model: Factory, tiny_batches: Batches, logits_of: LogitsOf, tmp_path: Path
) -> None:
    model = tiny_model(name)
    config = AutoConfig(Sparsity(0.6), damping=1e-2, structures=("groups",))
    pruned, report = prune(model, config, tiny_batches)
    assert 0.6 <= report.sparsity < 0.85
    grouped = [matrix.structure for _, _, matrix in report.plan if isinstance(matrix.structure, Grouped)]
    assert grouped
    twin = to_dense(pruned)
    pruned.save_pretrained(tmp_path / "pruned")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned").eval()
    for batch in tiny_batches:
        logits = logits_of(pruned, batch)
        torch.testing.assert_close(logits, logits_of(twin, batch), rtol=1e-4, atol=1e-4)
        assert torch.equal(logits, logits_of(loaded, batch))


def test_errors_of_groups_are_those_of_lstsq() -> None:
    """The error of the last matrix in groups, by least squares of every group on samples."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(200, 8) @ draw(8, 8)
    x = x - x.mean(0)
    weight = draw(6, 8)
    structure = Grouped(((0, 2, 4), (1, 3, 5)), ((0, 1, 2, 3), (4, 5, 6, 7)))
    expected = 0.0
    for rows, columns in zip(structure.row_groups, structure.column_groups, strict=True):
        wanted = x @ weight[list(rows)].T
        solution = torch.linalg.lstsq(x[:, list(columns)], wanted).solution
        expected += float((wanted - x[:, list(columns)] @ solution).square().sum()) / len(x)
    found = group_error(weight, torch.ones(6, dtype=torch.float64), x.T @ x / len(x), structure, 1e-12)
    assert found == pytest.approx(expected, rel=1e-6)


def test_groups_need_a_calibration_that_knows_them(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    model = tiny_model("bert")
    with_groups = AutoConfig(Sparsity(0.5), structures=("removal", "low_rank", "groups"))
    with pytest.raises(OptionError, match="groups"):
        prune(model, with_groups, calibrate(model, AutoConfig(Sparsity(0.5)), tiny_batches))
    made = calibrate(model, with_groups, tiny_batches)
    made.save(tmp_path / "calibration")
    loaded = Calibration.load(tmp_path / "calibration")
    assert prune(model, with_groups, loaded)[1].plan == prune(model, with_groups, made)[1].plan


@pytest.mark.parametrize("cost", [Weights(), Flops(length=12)])
def test_a_grouped_plan_costs_what_its_choices_do(cost: Cost, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    curves = calibrate(model, AutoConfig(Sparsity(0.5), structures=("groups",)), tiny_batches).curves
    budget = 0.7 * full_cost(curves, cost)
    choices = allocate(curves, cost, budget, removal=False, low_rank=False)
    assert any(choice.candidate is not None and choice.candidate.structures for choice in choices)
    plan = make_allocated_plan("bert", Encoder(model).shapes, curves, choices)
    assert plan_cost(plan, cost) == pytest.approx(sum(choice.cost for choice in choices))
    assert plan_cost(plan, cost) <= budget
    without = allocate(curves, cost, budget, removal=False, low_rank=False, groups=False)
    assert not any(choice.candidate is not None and choice.candidate.structures for choice in without)
