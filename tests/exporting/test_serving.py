"""Exported embedders and rerankers in libraries that pin other versions of transformers or of the client of the hub.

``BERTSURGEON_SERVING_PYTHONS`` lists the interpreters of environments with these libraries, separated like a PATH; a
test is skipped if none of them has its library. docs/testing.md states how to make them.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bertsurgeon import ExportConfig, export, load_model
from bertsurgeon.checkpoint import load_embedder, load_tokenizer
from cli_helpers import write_model

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")

VARIABLE = "BERTSURGEON_SERVING_PYTHONS"
TEXTS = ["the film was very fine", "a dull day and a cold plot with the old new film", "warm"]

SENTENCE_TRANSFORMERS = """
from sentence_transformers import SentenceTransformer
values = SentenceTransformer(folder, backend=backend, device="cpu", local_files_only=True).encode(texts)
"""
CROSS_ENCODER = """
from sentence_transformers import CrossEncoder
model = CrossEncoder(folder, backend=backend, device="cpu", local_files_only=True)
values = model.predict([(text, texts[0]) for text in texts])
"""
FASTEMBED = """
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
TextEmbedding.add_custom_model(
    model="own", pooling=PoolingType.CLS, normalization=True, sources=ModelSource(hf="own/own"), dim=32,
    model_file="model.onnx",
)
values = list(TextEmbedding("own", specific_model_path=folder).embed(texts))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedder that cuts texts at eight tokens, and a tiny reranker."""
    root = tmp_path_factory.mktemp("serving")
    write_model(root / "plain")
    write_model(root / "reranker", num_labels=1)
    parts = [modules.Transformer(str(root / "plain"), max_seq_length=8), modules.Pooling(32, pooling_mode="cls")]
    whole = sentence_transformers.SentenceTransformer(modules=[*parts, modules.Normalize()], device="cpu")
    whole.save(str(root / "embedder"), create_model_card=False)
    return root


def python_with(library: str) -> str:
    """The first interpreter that can import a module."""
    for python in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        if subprocess.run([python, "-c", f"import {library}"], capture_output=True).returncode == 0:
            return python
    pytest.skip(f"no interpreter of {VARIABLE} has {library}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "code", "model", "runtime", "tolerance"),
    [
        ("optimum.onnxruntime", SENTENCE_TRANSFORMERS, "embedder", "onnx", 1e-5),
        ("optimum.onnxruntime", CROSS_ENCODER, "reranker", "onnx", 1e-5),
        ("optimum.intel.openvino", SENTENCE_TRANSFORMERS, "embedder", "openvino", 2e-2),  # may compute in bfloat16
        ("fastembed", FASTEMBED, "embedder", "onnx", 1e-5),
    ],
)
def test_other_libraries_compute_the_same(
    library: str, code: str, model: str, runtime: str, tolerance: float, folder: Path, tmp_path: Path
) -> None:
    python = python_with(library)
    tokenizer = load_tokenizer(folder / model)
    dense = (load_embedder if model == "embedder" else load_model)(folder / model)
    export(dense, ExportConfig(runtime), TEXTS * 8, tokenizer, output=tmp_path / "exported")  # type: ignore[arg-type]
    start = f"import json\nfolder, backend, texts = {str(tmp_path / 'exported')!r}, {runtime!r}, {TEXTS!r}\n"
    end = "print(json.dumps([value.tolist() for value in values]))"
    result = subprocess.run([python, "-c", start + code + end], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    pairs = [TEXTS] if model == "embedder" else [TEXTS, [TEXTS[0]] * len(TEXTS)]
    length = 8 if model == "embedder" else 128
    with torch.inference_mode():
        batch = tokenizer(*pairs, padding=True, truncation=True, max_length=length, return_tensors="pt")
        outputs = dense(**batch)
    # a CrossEncoder with one output returns probabilities
    expected = outputs.sentence_embedding if model == "embedder" else torch.sigmoid(outputs.logits[:, 0])
    values = np.asarray(json.loads(result.stdout.strip().splitlines()[-1]))
    np.testing.assert_allclose(values, expected.numpy(), atol=tolerance)
