"""Verbs that need gradients work under ``no_grad`` and ``inference_mode``, and with models that were made there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import (
    Calibration,
    CalibrationConfig,
    LayerDropConfig,
    PgbConfig,
    Sparsity,
    TrainingConfig,
    calibrate,
    drop_layers,
    prune,
    train,
)
from bertsurgeon.errors import ModelError

Mode = Callable[[], AbstractContextManager[None]]
MakeModel = Callable[..., PreTrainedModel]
Batches = list[dict[str, Tensor]]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_pruning(mode: Mode, tiny_model: MakeModel, tiny_batches: Batches) -> None:
    with mode():
        model = tiny_model("bert", num_hidden_layers=1)
        batch = {name: value.clone() for name, value in tiny_batches[0].items()}
        pruned = prune(model, PgbConfig(Sparsity(0.5)), [batch]).model
    assert model.classifier.weight.is_inference() == (mode is torch.inference_mode)  # it is left as it is
    pruned(**tiny_batches[0]).loss.backward()  # the result can be trained


def test_calibrations_by_paths_as_strings(tiny_model: MakeModel, tiny_batches: Batches, tmp_path: Path) -> None:
    with torch.inference_mode():
        model = tiny_model("bert", num_hidden_layers=1)
        calibration = calibrate(model, CalibrationConfig(), tiny_batches[:1])
    calibration.save(str(tmp_path / "calibration"))
    assert len(Calibration.load(str(tmp_path / "calibration")).curves) == len(calibration.curves)


def test_dropping_layers(tiny_model: MakeModel, tiny_batches: Batches) -> None:
    with torch.inference_mode():
        model = drop_layers(tiny_model("bert"), LayerDropConfig(2, "importance"), tiny_batches[:1]).model
    model(**tiny_batches[0]).loss.backward()


def test_training(tiny_model: MakeModel, tiny_batches: Batches, tokenizer: PreTrainedTokenizerBase) -> None:
    config = TrainingConfig(max_steps=2, batch_size=4)
    with torch.no_grad():
        model = tiny_model("bert", num_hidden_layers=1)
        before = model.classifier.weight.clone()
        train(model, config, tiny_batches[:1], tokenizer)
    assert not torch.equal(model.classifier.weight, before)
    with torch.inference_mode():
        model = tiny_model("bert", num_hidden_layers=1)
        with pytest.raises(ModelError, match="inference_mode"):
            train(model, config, tiny_batches[:1], tokenizer)
