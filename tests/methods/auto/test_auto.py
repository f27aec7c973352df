"""The method ``auto`` from end to end: budgets, labels, calibrations on disk, and its options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_cases import Batches, Factory, calibrate_tiny
from bertsurgeon import (
    AutoConfig,
    Calibration,
    CalibrationConfig,
    Flops,
    ObertConfig,
    PgbConfig,
    PruneConfig,
    Sparsity,
    calibrate,
    prune,
)
from bertsurgeon.architectures import Encoder
from bertsurgeon.budgets import Budget
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.methods.auto import costs
from bertsurgeon.methods.auto.costs import plan_cost
from bertsurgeon.plan import dense_plan


@pytest.fixture(scope="module")
def calibration(tiny_model: Factory) -> Calibration:
    return calibrate_tiny(tiny_model("bert"))


@pytest.mark.parametrize("budget", [Sparsity(0.5), Sparsity(0.9), Flops(0.6)], ids=str)
def test_auto_meets_its_budget(budget: Budget, tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    _, report = prune(model, AutoConfig(budget, damping=1e-2), tiny_batches)
    dense = dense_plan("bert", Encoder(model).shapes)
    cost = costs.Flops() if isinstance(budget, Flops) else costs.Weights()
    removed = 1 - plan_cost(report.plan, cost) / plan_cost(dense, cost)
    assert budget.amount <= removed <= budget.amount + 0.03
    assert set(report.seconds) == {"statistics", "curves", "allocation", "compensation"}


def test_auto_needs_no_labels_and_ignores_them(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    unlabelled = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    plans = [prune(model, AutoConfig(Sparsity(0.5)), data)[1].plan for data in (tiny_batches, unlabelled)]
    assert plans[0] == plans[1]
    labelled = prune(model, AutoConfig(Sparsity(0.5), use_labels=True), tiny_batches)[1].plan
    assert labelled != plans[0]


def test_a_calibration_serves_many_budgets(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    model = tiny_model("bert")
    config = AutoConfig(Sparsity(0.5))
    made = calibrate(model, config, tiny_batches)
    made.save(tmp_path / "calibration")
    loaded = Calibration.load(tmp_path / "calibration")
    for sparsity in (0.3, 0.8):
        direct, again = (prune(model, AutoConfig(Sparsity(sparsity)), data)[1].plan for data in (tiny_batches, loaded))
        assert direct == again
    # calibrations of 0.1.0 hold token weights of keys and values, too; the input's own ones are used
    expected = prune(model, config, loaded).model.state_dict()
    for layer in range(3):
        loaded.token_weights[layer, "key"] = [torch.rand_like(part) for part in loaded.token_weights[layer, "query"]]
    again = prune(model, config, loaded).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in expected.items())
    other = tiny_model("bert", vocab_size=101)
    with pytest.raises(ModelError, match="another model"):
        prune(other, config, loaded)
    with pytest.raises(OptionError, match="samples"):
        prune(model, AutoConfig(Sparsity(0.5), samples=3), loaded)
    with pytest.raises(OptionError, match="no use for a calibration"):
        prune(model, PgbConfig(Sparsity(0.5)), loaded)


def test_damaged_calibrations(tmp_path: Path, calibration: Calibration) -> None:
    with pytest.raises(CheckpointError, match="calibrate again"):
        Calibration.load(tmp_path)
    calibration.save(tmp_path / "c")
    path = tmp_path / "c" / "calibration.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="calibrate again"):
        Calibration.load(tmp_path / "c")


def test_calibrations_at_paths_that_are_strings(tmp_path: Path, calibration: Calibration) -> None:
    folder = str(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"no folder .*/c; pass the output folder of 'bertsurgeon calibrate'"):
        Calibration.load(folder)
    calibration.save(folder)
    assert Calibration.load(folder).model == calibration.model


@pytest.mark.parametrize(
    ("config", "options", "unused"),
    [
        (AutoConfig, {"metric": "plain", "use_labels": True}, "use_labels"),
        (AutoConfig, {"metric": "plain", "token_weighting": 0.9}, "token_weighting"),
        (AutoConfig, {"group_chunk": 32}, "group_chunk"),
        (PgbConfig, {"grouping": "none", "permutation_steps": 3}, "permutation_steps"),
        (PgbConfig, {"obs_block_size": 16}, "obs_block_size"),
        (ObertConfig, {"score": "magnitude", "fisher_batch_size": 4}, "fisher_batch_size"),
    ],
    ids=str,
)
def test_options_without_an_effect_are_refused(
    config: Callable[..., PruneConfig], options: dict[str, Any], unused: str
) -> None:
    with pytest.raises(OptionError, match=unused):
        config(Sparsity(0.5), **options)


def test_gradients_from_labels_need_labels(tiny_model: Factory, tiny_batches: Batches) -> None:
    unlabelled = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    with pytest.raises(OptionError, match="need labeled data"):
        calibrate(tiny_model("bert"), AutoConfig(Sparsity(0.5), use_labels=True), unlabelled)


def test_calibrations_record_the_temperature(
    tiny_model: Factory, tiny_batches: Batches, calibration: Calibration, tmp_path: Path
) -> None:
    """One without a record was made at 1, and serves the default options."""
    model = tiny_model("bert")
    with pytest.raises(OptionError, match=r"made with fisher_temperature=2.0, not 1.0"):
        calibration.check(model, CalibrationConfig(damping=1e-2, fisher_temperature=1.0))
    del calibration.settings["fisher_temperature"]
    calibration.save(tmp_path / "c")
    former = Calibration.load(tmp_path / "c")
    for temperature in (1.0, 2.0):
        former.check(model, CalibrationConfig(damping=1e-2, fisher_temperature=temperature))
    with pytest.raises(OptionError, match=r"made with fisher_temperature=1.0, not 4.0"):
        former.check(model, CalibrationConfig(damping=1e-2, fisher_temperature=4.0))


@pytest.mark.parametrize("structures", [(), ("magic",)])
def test_unknown_structures(structures: Any) -> None:
    with pytest.raises(OptionError, match="structures"):
        AutoConfig(Sparsity(0.5), structures=structures)
