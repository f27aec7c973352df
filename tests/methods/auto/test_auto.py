"""The method ``auto`` from end to end: budgets, labels, calibrations on disk, and its options."""

from pathlib import Path
from typing import Any

import pytest

from auto_cases import Batches, Factory, calibrate_tiny
from bertsurgeon import Calibration, PruneConfig, calibrate, prune
from bertsurgeon.errors import CheckpointError, ModelError, OptionError


@pytest.fixture(scope="module")
def calibration(tiny_model: Factory) -> Calibration:
    return calibrate_tiny(tiny_model("bert"))


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"sparsity": 0.9}, {"flops": 0.6}])
def test_auto_meets_its_budget(options: dict[str, float], tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    _, report = prune(model, tiny_batches, PruneConfig(**options, damping=1e-2))  # type: ignore[arg-type]
    if "sparsity" in options:
        assert options["sparsity"] <= report.sparsity <= options["sparsity"] + 0.03
    assert set(report.seconds) == {"statistics", "curves", "allocation", "compensation"}


def test_auto_needs_no_labels_and_ignores_them(tiny_model: Factory, tiny_batches: Batches) -> None:
    model = tiny_model("bert")
    unlabelled = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    plans = [prune(model, data, PruneConfig(sparsity=0.5))[1].plan for data in (tiny_batches, unlabelled)]
    assert plans[0] == plans[1]
    labelled = prune(model, tiny_batches, PruneConfig(sparsity=0.5, use_labels=True))[1].plan
    assert labelled != plans[0]


def test_a_calibration_serves_many_budgets(tiny_model: Factory, tiny_batches: Batches, tmp_path: Path) -> None:
    model = tiny_model("bert")
    config = PruneConfig(sparsity=0.5)
    made = calibrate(model, tiny_batches, config)
    made.save(tmp_path / "calibration")
    loaded = Calibration.load(tmp_path / "calibration")
    for sparsity in (0.3, 0.8):
        direct, again = (prune(model, data, PruneConfig(sparsity=sparsity))[1].plan for data in (tiny_batches, loaded))
        assert direct == again
    other = tiny_model("bert", vocab_size=101)
    with pytest.raises(ModelError, match="another model"):
        prune(other, loaded, config)
    with pytest.raises(OptionError, match="samples"):
        prune(model, loaded, PruneConfig(sparsity=0.5, samples=3))
    with pytest.raises(OptionError, match="auto only"):
        prune(model, loaded, PruneConfig(method="pgb", sparsity=0.5))


def test_damaged_calibrations(tmp_path: Path, calibration: Calibration) -> None:
    with pytest.raises(CheckpointError, match="calibrate again"):
        Calibration.load(tmp_path)
    calibration.save(tmp_path / "c")
    path = tmp_path / "c" / "calibration.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="calibrate again"):
        Calibration.load(tmp_path / "c")


@pytest.mark.parametrize(
    "options",
    [
        {"method": "auto", "threshold": 1e-5},
        {"method": "auto", "sparsity": 0.5, "grouping": "assign"},
        {"method": "auto", "sparsity": 0.5, "compensation": "none"},
        {"method": "pgb", "flops": 0.5},
        {"method": "pgb", "sparsity": 0.5, "metric": "plain"},
        {"method": "pgb", "sparsity": 0.5, "token_weighting": 0.0},
        {"method": "pgb", "sparsity": 0.5, "structures": ("removal",)},
    ],
    ids=str,
)
def test_options_of_the_other_method(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="option of the method"):
        PruneConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "plain", "use_labels": True},
        {"metric": "plain", "token_weighting": 0.9},
        {"group_chunk": 32},
        {"method": "pgb", "grouping": "none", "permutation_steps": 3},
        {"method": "pgb", "obs_block_size": 16},
        {"method": "obert", "score": "magnitude", "fisher_batch_size": 4},
    ],
    ids=str,
)
def test_options_that_would_do_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="does nothing with"):
        PruneConfig(sparsity=0.5, **options)


def test_gradients_from_labels_need_labels(tiny_model: Factory, tiny_batches: Batches) -> None:
    unlabelled = [{name: value for name, value in batch.items() if name != "labels"} for batch in tiny_batches]
    with pytest.raises(OptionError, match="need labelled data"):
        calibrate(tiny_model("bert"), unlabelled, PruneConfig(sparsity=0.5, use_labels=True))


@pytest.mark.parametrize("structures", [(), ("magic",)])
def test_unknown_structures(structures: Any) -> None:
    with pytest.raises(OptionError, match="structures"):
        PruneConfig(sparsity=0.5, structures=structures)
