"""Refits of embeddings: the regression itself, the module that holds it, and the commands that make it."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

import bertsurgeon
from bertsurgeon import AutoConfig, Sparsity, prune, refit_embeddings, verify
from bertsurgeon.calibration import make_batches
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.compression import report as report_module
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import CheckpointError, DataError, ModelError
from bertsurgeon.recovery.refit import DAMPINGS, EmbeddingRefit, regress
from bertsurgeon.tasks import tokenize
from bertsurgeon.tasks.types import Embedding
from bertsurgeon.testing import toy_classifier
from cli_helpers import run, succeed, write_model
from test_embedder import embed, encode, sentences

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")


def write_embedder(folder: Path, *tail: Any) -> Path:
    """Writes a tiny embedder with these modules after the pooling."""
    write_model(folder / "plain")
    torch.manual_seed(1)
    parts = [modules.Transformer(str(folder / "plain")), modules.Pooling(32, pooling_mode="mean"), *tail]
    whole = sentence_transformers.SentenceTransformer(modules=parts, device="cpu")
    whole.save(str(folder / "dense"), create_model_card=False)
    return folder / "dense"


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedder with normalized embeddings, and files of texts beside it."""
    place = tmp_path_factory.mktemp("refit")
    dense = write_embedder(place, modules.Normalize())
    (place / "texts.txt").write_text("\n".join(sentences(200)), encoding="utf-8")
    return dense


def pruned_of(folder: Path, texts: list[str]) -> tuple[Embedder, Embedder, Any, Any]:
    """Returns the dense embedder, one pruned from it, its tokenizer and the tokenized texts."""
    dense, tokenizer = bertsurgeon.load_model(folder), load_tokenizer(folder)
    assert isinstance(dense, Embedder)
    data = tokenize(Dataset.from_dict({"text": texts}), tokenizer, task_type=Embedding())
    pruned = prune(dense, AutoConfig(Sparsity(0.7)), data, tokenizer).model
    assert isinstance(pruned, Embedder)
    return dense, pruned, tokenizer, data


def tail_of(model: Embedder) -> list[str]:
    return [type(module).__name__ for module in model.tail]


def test_the_damping_has_the_least_error_of_texts_left_out() -> None:
    torch.manual_seed(0)
    z = torch.randn(14, 6, dtype=torch.float64)
    t = z @ (torch.eye(6, dtype=torch.float64) + 0.3 * torch.randn(6, 6, dtype=torch.float64)) + torch.randn(14, 6)

    def solve(rows: Tensor, targets: Tensor, damping: float) -> Tensor:
        ridge = damping * float(torch.linalg.eigvalsh(z.T @ z).mean()) * torch.eye(6, dtype=torch.float64)
        return torch.linalg.solve(rows.T @ rows + ridge, rows.T @ targets + ridge)

    errors = {}
    for damping in DAMPINGS:
        residuals = []
        for left in range(len(z)):
            others = [number for number in range(len(z)) if number != left]
            residuals.append(z[left] @ solve(z[others], t[others], damping) - t[left])
        errors[damping] = float(torch.stack(residuals).square().sum() / t.square().sum())
    result = regress(z, t, normalized=False)
    assert result.damping == min(errors, key=lambda damping: errors[damping])
    assert result.damping not in (DAMPINGS[0], DAMPINGS[-1])
    assert result.after == pytest.approx(min(errors.values()))
    assert result.before == pytest.approx(float((z - t).square().sum() / t.square().sum()))
    torch.testing.assert_close(result.matrix, solve(z, t, result.damping))


def test_a_refit_undoes_a_rotation(normalized: Path, tmp_path: Path) -> None:
    texts = sentences(300)
    dense, tokenizer = bertsurgeon.load_model(normalized), load_tokenizer(normalized)
    rotated = bertsurgeon.load_model(normalized)
    assert isinstance(rotated, Embedder)
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(3)))[0]
    rotated.transform_embeddings(rotation.double())
    assert tail_of(rotated) == ["Pooling", "Dense", "Normalize"]
    report = refit_embeddings(rotated, texts, tokenizer, teacher=dense)
    assert tail_of(rotated) == ["Pooling", "Dense", "Normalize"]  # merged, not added
    assert report.texts == len(set(texts))
    assert report.before > 0.1
    assert report.after < 1e-3
    new = sentences(5, seed=9)
    np.testing.assert_allclose(embed(rotated, normalized, new), embed(dense, normalized, new), atol=0.02)


@pytest.mark.parametrize("tail", [(), (modules.Dense(32, 24),), (modules.Dense(32, 24), modules.Normalize())])
def test_a_refit_model_is_what_sentence_transformers_reads(tail: tuple[Any, ...], tmp_path: Path) -> None:
    texts = sentences(200)
    folder = write_embedder(tmp_path, *tail)
    dense, pruned, tokenizer, data = pruned_of(folder, texts)
    before = tail_of(dense)
    original = embed(pruned, folder, texts)
    target = embed(dense, folder, texts)
    report = refit_embeddings(pruned, data, tokenizer, teacher=dense)
    improved = embed(pruned, folder, texts)
    assert report.after < report.before
    assert np.square(improved - target).sum() < np.square(original - target).sum()
    expected = [*before, "Dense"] if before[-1] != "Normalize" else [*before[:-1], "Dense", "Normalize"]
    assert tail_of(pruned) == expected
    assert tail_of(dense) == before
    bertsurgeon.save_model(pruned, tmp_path / "refit", tokenizer)
    np.testing.assert_allclose(encode(tmp_path / "refit", texts), improved, atol=1e-5)
    loaded = bertsurgeon.load_model(tmp_path / "refit")
    assert isinstance(loaded, Embedder)
    np.testing.assert_allclose(embed(loaded, folder, texts), improved, atol=1e-5)
    bertsurgeon.export(loaded, bertsurgeon.ExportConfig("onnx", "fp32"), data, tokenizer, output=tmp_path / "onnx")
    np.testing.assert_allclose(embed(bertsurgeon.open_exported(tmp_path / "onnx"), folder, texts), improved, atol=1e-4)


def test_a_dense_module_with_a_bias_is_multiplied(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path, modules.Dense(32, 24, activation_function=torch.nn.Identity()))
    model = bertsurgeon.load_model(folder)
    assert isinstance(model, Embedder)
    texts = sentences(6)
    before = torch.from_numpy(embed(model, folder, texts)).double()
    matrix = torch.randn(24, 24, dtype=torch.float64)
    model.transform_embeddings(matrix)
    assert tail_of(model) == ["Pooling", "Dense"]
    np.testing.assert_allclose(embed(model, folder, texts), (before @ matrix).numpy(), atol=1e-4)


def test_a_model_that_no_matrix_improves_is_left_alone(normalized: Path) -> None:
    dense, tokenizer = bertsurgeon.load_model(normalized), load_tokenizer(normalized)
    same = bertsurgeon.load_model(normalized)
    assert isinstance(same, Embedder)
    report = refit_embeddings(same, sentences(100), tokenizer, teacher=dense)
    assert report.before == pytest.approx(0, abs=1e-9)
    assert not report.applied
    assert tail_of(same) == ["Pooling", "Normalize"]


def test_texts_are_drawn_up_to_a_number_of_tokens(normalized: Path) -> None:
    dense, _, tokenizer, data = pruned_of(normalized, sentences(200))
    refit = EmbeddingRefit(dense, data, tokenizer, max_tokens=900, seed=1)
    lengths = [len(ids) for ids in refit.texts["input_ids"]]
    assert sum(lengths) == refit.tokens <= 900
    assert refit.tokens > 900 - max(len(ids) for ids in data["input_ids"])
    assert refit.texts["input_ids"] != EmbeddingRefit(dense, data, tokenizer, max_tokens=900).texts["input_ids"]


def test_a_refit_needs_embedders_and_texts(normalized: Path) -> None:
    dense, tokenizer = bertsurgeon.load_model(normalized), load_tokenizer(normalized)
    classifier, its_tokenizer, texts = toy_classifier()
    with pytest.raises(ModelError, match="makes no sentence embeddings"):
        refit_embeddings(classifier, texts, its_tokenizer, teacher=classifier)
    with pytest.raises(DataError, match="needs 64 distinct texts or more, not 63"):
        refit_embeddings(bertsurgeon.load_model(normalized), sentences(63), tokenizer, teacher=dense)


def test_prune_and_recover_refit_by_default(normalized: Path, tmp_path: Path) -> None:
    texts = ["--text-file", normalized.parent / "texts.txt"]
    output = succeed("prune", normalized, *texts, "--sparsity", "0.7", "-o", tmp_path / "pruned").output
    assert verify(tmp_path / "pruned").faults == []
    assert "Embeddings refit on 180 texts" in " ".join(output.split())
    report = json.loads((tmp_path / "pruned" / "report.json").read_text())["refit"]
    assert report["after"] < report["before"]
    model = bertsurgeon.load_model(tmp_path / "pruned")
    assert isinstance(model, Embedder)
    assert tail_of(model) == ["Pooling", "Dense", "Normalize"]
    succeed("prune", normalized, *texts, "--sparsity", "0.7", "--no-refit", "-o", tmp_path / "without")
    assert json.loads((tmp_path / "without" / "report.json").read_text())["refit"] is None
    recover = ["recover", tmp_path / "without", "--teacher", normalized, *texts, "--epochs", "0.1"]
    succeed(*recover, "-o", tmp_path / "recovered")
    assert json.loads((tmp_path / "recovered" / "training_report.json").read_text())["refit"]["texts"] == 180


def test_a_refit_is_for_embedders_on_the_command_line(tmp_path: Path) -> None:
    write_model(tmp_path / "classifier")
    (tmp_path / "texts.txt").write_text("\n".join(sentences(20)), encoding="utf-8")
    arguments = ["prune", tmp_path / "classifier", "--text-file", tmp_path / "texts.txt", "--sparsity", "0.5"]
    result = run(*arguments, "--no-refit", "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert "--refit and --no-refit are for sentence embedders" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_few_texts_are_no_obstacle(normalized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.note", notes.append)
    (tmp_path / "few.txt").write_text("\n".join(sentences(40)), encoding="utf-8")
    arguments = ["prune", normalized, "--text-file", tmp_path / "few.txt", "--sparsity", "0.5"]
    succeed(*arguments, "-o", tmp_path / "out")
    assert "The embeddings are not refit: that needs 64 distinct texts, not 36." in notes


def test_embeddings_of_unit_length_are_what_is_regressed(normalized: Path) -> None:
    dense, pruned, tokenizer, data = pruned_of(normalized, sentences(200))
    texts = sentences(200)
    ours, targets = (torch.from_numpy(embed(model, normalized, texts)) for model in (pruned, dense))
    expected = F.normalize(ours.double() @ regress(ours, targets, normalized=True).matrix, dim=-1)
    refit_embeddings(pruned, data, tokenizer, teacher=dense)
    np.testing.assert_allclose(embed(pruned, normalized, texts), expected.numpy(), atol=1e-4)


def test_compress_refits_its_candidates(normalized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "measure_memory", lambda *arguments: 1)
    options = ("--text-file", normalized.parent / "texts.txt", "--to", "pytorch", "--min-agreement", "1", "--json")
    few = ("--max-candidates", "2", "--no-recover", "--length", "8")
    report = json.loads(succeed("compress", normalized, *options, *few, "-o", tmp_path / "small").stdout)
    chosen = next(one for one in report["candidates"] if one["name"] == report["chosen"])
    assert chosen["removed"] > 0
    model = bertsurgeon.load_model(tmp_path / "small")
    assert isinstance(model, Embedder)
    assert tail_of(model) == ["Pooling", "Dense", "Normalize"]


def test_copies_of_a_text_count_once(normalized: Path) -> None:
    _, pruned, tokenizer, _ = pruned_of(normalized, sentences(100))
    dense = bertsurgeon.load_model(normalized)
    with pytest.raises(DataError, match="needs 64 distinct texts or more, not 10"):
        refit_embeddings(pruned, sentences(10) * 20, tokenizer, teacher=dense)
    distinct = list(dict.fromkeys(sentences(100)))
    report = refit_embeddings(pruned, distinct * 3, tokenizer, teacher=dense)
    assert report.texts == len(distinct)


def test_texts_of_the_calibration_are_left_out_if_there_are_others(normalized: Path) -> None:
    dense, _, tokenizer, _ = pruned_of(normalized, sentences(100))
    texts = list(dict.fromkeys(sentences(200)))
    data = tokenize(Dataset.from_dict({"text": texts}), tokenizer, task_type=Embedding())
    refit = EmbeddingRefit(dense, data, tokenizer)
    for used, left in ((60, len(texts) - 60), (len(texts) - 63, len(texts))):
        batches = make_batches(data.select(range(used)), tokenizer, None, 7, 0)
        refit.leave_out(batches)
        assert len(refit.texts) == left
    assert [ids for ids in refit.texts["input_ids"] if ids not in data["input_ids"]] == []


def test_a_shorter_vector_is_no_improvement_where_lengths_do_not_count() -> None:
    torch.manual_seed(0)
    z = F.normalize(torch.randn(400, 40), dim=-1)
    t = F.normalize(z + 0.15 * torch.randn(400, 40), dim=-1)  # noise alone: nothing can be regressed
    raw, normalized = (regress(z, t, normalized=flag) for flag in (False, True))
    assert raw.after < 0.95 * raw.before
    assert normalized.after > 0.98 * normalized.before


def test_widths_must_be_equal(normalized: Path, tmp_path: Path) -> None:
    narrow = bertsurgeon.load_model(write_embedder(tmp_path, modules.Dense(32, 24)))
    with pytest.raises(ModelError, match="widths of 32 and 24"):
        refit_embeddings(bertsurgeon.load_model(normalized), sentences(90), load_tokenizer(normalized), teacher=narrow)


def test_modules_may_have_names(normalized: Path, tmp_path: Path) -> None:
    parts = [modules.Transformer(str(normalized.parent / "plain")), modules.Pooling(32, pooling_mode="mean")]
    names = ("transformer", "pooler", "normalizer")
    whole = OrderedDict(zip(names, [*parts, modules.Normalize()], strict=True))
    sentence_transformers.SentenceTransformer(modules=whole, device="cpu").save(str(tmp_path / "named"))
    texts = sentences(150)
    dense, pruned, tokenizer, data = pruned_of(tmp_path / "named", texts)
    refit_embeddings(pruned, data, tokenizer, teacher=dense)
    assert tail_of(pruned) == ["Pooling", "Dense", "Normalize"]
    pruned.save_pretrained(tmp_path / "refit")
    np.testing.assert_allclose(encode(tmp_path / "refit", texts), embed(pruned, tmp_path / "named", texts), atol=1e-5)


def test_a_damaged_matrix_is_found(normalized: Path, tmp_path: Path) -> None:
    dense, pruned, tokenizer, data = pruned_of(normalized, sentences(200))
    refit_embeddings(pruned, data, tokenizer, teacher=dense)
    bertsurgeon.save_model(pruned, tmp_path / "refit", tokenizer)
    result = verify(tmp_path / "refit")
    assert (result.holds, result.faults) == (["model"], [])
    file = tmp_path / "refit" / "2_Dense" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))
    assert "2_Dense are damaged" in verify(tmp_path / "refit").faults[0]
    with pytest.raises(CheckpointError, match="2_Dense are damaged"):
        bertsurgeon.load_model(tmp_path / "refit")


def test_a_requested_refit_needs_texts(normalized: Path, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("\n".join(sentences(40)), encoding="utf-8")
    result = run(
        "prune", normalized, "--text-file", tmp_path / "few.txt", "--sparsity", "0.5", "--refit", "-o", tmp_path / "out"
    )
    assert result.exit_code != 0
    assert "needs 64 distinct texts or more, not 36" in " ".join(result.stderr.split())
