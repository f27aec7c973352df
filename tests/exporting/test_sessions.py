"""Exported models take the inputs that PyTorch models take; a session that records its inputs stands for a runtime."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig

from bertsurgeon.errors import DataError
from bertsurgeon.runtime import RuntimeModel
from bertsurgeon.runtime.manifest import Manifest
from bertsurgeon.runtime.sessions import Arrays

IDS = [[2, 5, 3], [2, 6, 3]]


class Recorder:
    """Session that keeps its inputs."""

    inputs: Arrays

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        self.inputs = inputs
        return {"logits": np.zeros((2, 2), np.float32)}


def open_recorder(*inputs: str) -> tuple[RuntimeModel, Recorder]:
    session = Recorder()
    return RuntimeModel(session, Manifest("onnx", "fp32", inputs, ("logits",), 0), BertConfig()), session


@pytest.mark.parametrize("given", [torch.tensor(IDS), torch.tensor(IDS).int(), np.array(IDS, np.int32), IDS])
def test_ids_of_any_type(given: Any) -> None:
    model, session = open_recorder("input_ids", "attention_mask")
    model(given, attention_mask=None, labels=torch.tensor([0, 1]))
    assert session.inputs.keys() == {"input_ids", "attention_mask"}
    assert all(array.dtype == np.int64 for array in session.inputs.values())
    assert session.inputs["input_ids"].tolist() == IDS


def test_inputs_that_are_missing() -> None:
    model, session = open_recorder("input_ids", "attention_mask", "token_type_ids")
    model(input_ids=torch.tensor(IDS))
    assert session.inputs["attention_mask"].tolist() == [[1, 1, 1]] * 2
    assert session.inputs["token_type_ids"].tolist() == [[0, 0, 0]] * 2
    with pytest.raises(DataError, match="needs the input input_ids"):
        model(attention_mask=torch.tensor(IDS))


@pytest.mark.parametrize(
    ("ids", "words"), [([2, 5], r"\(batch, tokens\), not \(2,\)"), ([[1], [1, 2]], "pad the batch")]
)
def test_ids_that_are_no_batch(ids: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_recorder("input_ids")[0](ids)


def test_images_are_floats() -> None:
    model, session = open_recorder("pixel_values")
    model(pixel_values=torch.ones(1, 3, 2, 2, dtype=torch.float64))
    assert session.inputs["pixel_values"].dtype == np.float32
