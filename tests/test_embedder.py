"""Sentence embedders and rerankers, in and out, without labels."""

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.retrieval import retrieval_recall
from transformers import AutoModel, PreTrainedModel

import bertsurgeon
from architecture_cases import make_batches, make_model
from bertsurgeon import AutoConfig, Sparsity
from bertsurgeon.architectures import Encoder
from bertsurgeon.calibration import collect_statistics
from bertsurgeon.calibration import make_batches as batches_of
from bertsurgeon.checkpoint import get_plan, load_embedder, load_tokenizer
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import CheckpointError, ModelError
from bertsurgeon.recovery import distillation_loss
from bertsurgeon.runtime import Manifest
from bertsurgeon.sentence_folders import encoder_folder, is_embedder
from bertsurgeon.tasks import align_to_model, load_user_task, task_type_of, tokenize
from bertsurgeon.tasks.distributions import EMBEDDINGS
from bertsurgeon.tasks.metrics import neighbor_metrics
from bertsurgeon.tasks.types import REGRESSION, Embedding
from cli_helpers import FILLER, WORDS, run, succeed, write_model

sentence_transformers = pytest.importorskip("sentence_transformers")
modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")


def sentences(count: int, seed: int = 0) -> list[str]:
    choose = random.Random(seed)
    words = (*FILLER, *WORDS["good"], *WORDS["bad"])
    return [" ".join(choose.choices(words, k=choose.randint(3, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedder with everything behind its encoder, texts, and scored pairs."""
    place = tmp_path_factory.mktemp("embedder")
    write_model(place / "plain")
    torch.manual_seed(1)
    parts = [
        modules.Transformer(str(place / "plain")),
        modules.Pooling(32, pooling_mode="mean"),
        modules.Dense(32, 24),
        modules.Normalize(),
    ]
    whole = sentence_transformers.SentenceTransformer(modules=parts, device="cpu", prompts={"query": "the query"})
    whole.save(str(place / "dense"), create_model_card=False)
    settings = json.loads((place / "dense" / "sentence_bert_config.json").read_text())
    (place / "dense" / "sentence_bert_config.json").write_text(json.dumps({**settings, "max_seq_length": 20}))
    (place / "texts.txt").write_text("\n".join(sentences(80)), encoding="utf-8")
    (place / "held-out.txt").write_text("\n".join(sentences(40, seed=1)), encoding="utf-8")
    for part in ("train", "validation"):
        with (place / f"{part}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = zip(sentences(24, seed=2), sentences(24, seed=3), strict=True)
            csv.writer(file).writerows(
                [("text", "text_pair", "label"), *((*row, 0.5 + i % 5) for i, row in enumerate(rows))]
            )
    return place


def encode(path: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = sentence_transformers.SentenceTransformer(str(path), device="cpu").encode(texts)
    return found


def embed(model: PreTrainedModel, path: Path, texts: list[str]) -> np.ndarray[Any, Any]:
    batch = load_tokenizer(path)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found: np.ndarray[Any, Any] = model(**batch).sentence_embedding.numpy()
    return found


def test_a_folder_is_what_sentence_transformers_says(folder: Path) -> None:
    texts = sentences(5, seed=9)
    model = bertsurgeon.load_model(folder / "dense")
    assert isinstance(model, Embedder)
    assert isinstance(task_type_of(model), Embedding)
    np.testing.assert_allclose(embed(model, folder / "dense", texts), encode(folder / "dense", texts), atol=1e-6)
    plain = load_embedder(folder / "plain")  # mean pooling, as sentence-transformers has it
    np.testing.assert_allclose(embed(plain, folder / "plain", texts), encode(folder / "plain", texts), atol=1e-6)
    assert not is_embedder(folder / "plain")
    assert bertsurgeon.load_model(folder / "plain").num_labels == 2


def test_embedders_have_a_learning_rate_of_their_kind(folder: Path) -> None:
    """Not that of the damage: few neighbors are kept even where embeddings are close."""
    model, teacher = (bertsurgeon.load_model(folder / "dense") for _ in range(2))
    config = bertsurgeon.TrainingConfig(max_steps=1, distillation_weight=1.0)
    tokenizer = load_tokenizer(folder / "dense")
    report = bertsurgeon.train(model, config, sentences(12, seed=3), tokenizer, teacher=teacher)
    assert report.learning_rate == 2e-4


@pytest.mark.parametrize("method", ["auto", "pgb", "obert"])
def test_pruned_and_recovered_without_labels(method: str, folder: Path, tmp_path: Path) -> None:
    data = ("--text-file", folder / "texts.txt")
    options = ("--method", method, "--sparsity", "0.8", "--json", *data)
    found = json.loads(succeed("prune", folder / "dense", "-o", tmp_path / "pruned", *options).stdout)
    assert found["models"]["dense"] == {**found["models"]["dense"], "rank_overlap": 100.0, "cosine": 100.0}
    assert "recall_at_10" not in found["models"]["dense"]  # of eight held-out texts ten are all others
    cosine = found["models"]["pruned"]["cosine"]
    assert 0 < cosine < 100
    texts = sentences(5, seed=9)
    model = bertsurgeon.load_model(tmp_path / "pruned")
    assert (get_plan(model) is None) == (method == "obert")
    own = encode(tmp_path / "pruned", texts)
    np.testing.assert_allclose(embed(model, tmp_path / "pruned", texts), own, atol=1e-5)
    assert np.abs(own - encode(folder / "dense", texts)).max() > 1e-3
    whole = sentence_transformers.SentenceTransformer(str(tmp_path / "pruned"), device="cpu")
    assert whole.prompts["query"] == "the query"
    assert whole.max_seq_length == 20  # the tokenizer alone would take 128
    assert [type(part).__name__ for part in whole] == [
        "Transformer",
        "Pooling",
        "Dense",
        "Dense",
        "Normalize",
    ]  # one by the refit
    options = ("--teacher", folder / "dense", "--epochs", "8", "--learning-rate", "1e-3", "--json", *data)
    recovered = succeed("recover", tmp_path / "pruned", "-o", tmp_path / "recovered", *options)
    assert json.loads(recovered.stdout)["metrics"]["cosine"] > cosine
    dense = bertsurgeon.to_dense(bertsurgeon.load_model(tmp_path / "recovered"))
    dense.save_pretrained(tmp_path / "stock")
    np.testing.assert_allclose(encode(tmp_path / "stock", texts), encode(tmp_path / "recovered", texts), atol=1e-5)
    assert "quantization_config" not in json.loads((tmp_path / "stock" / "config.json").read_text())


def test_evaluated_exported_and_timed(folder: Path, tmp_path: Path) -> None:
    dense, data = folder / "dense", ("--text-file", folder / "texts.txt")
    succeed("drop-layers", dense, "--keep", "1", "--strategy", "importance", *data, "-o", tmp_path / "one")
    assert encode(tmp_path / "one", ["the film"]).shape == (1, 24)
    held_out = ("--text-file", folder / "held-out.txt", "--json")
    found = json.loads(succeed("evaluate", tmp_path / "one", "--reference", dense, *held_out).stdout)["metrics"]
    texts = (folder / "held-out.txt").read_text(encoding="utf-8").splitlines()
    wanted = neighbor_metrics(*(torch.from_numpy(encode(path, texts)) for path in (dense, tmp_path / "one")))
    assert found == pytest.approx(wanted, abs=1e-3)
    assert 0 < found["recall_at_10"] < 100
    exported = ("export", tmp_path / "one", "-o", tmp_path / "onnx", "--to", "onnx", *data, "--json")
    check = json.loads(succeed(*exported).stdout)["check"]
    assert check["agreement"] == pytest.approx(100, abs=1e-3)
    assert Manifest.load(tmp_path / "onnx").outputs == ("sentence_embedding",)
    same = json.loads(succeed("evaluate", tmp_path / "onnx", "--reference", tmp_path / "one", *held_out).stdout)
    assert same["metrics"]["cosine"] == pytest.approx(100, abs=1e-3)
    options = ("--batch-size", "2", "--runs", "1", "--no-memory", "--length", "8", "--json")
    assert len(json.loads(succeed("bench", dense, tmp_path / "onnx", *options).stdout)["models"]) == 2


def test_scored_pairs_are_a_task(folder: Path, tmp_path: Path) -> None:
    files = [f"--{part}-file={folder / part}.csv" for part in ("train", "validation")]
    files += ["--text-pair-column", "text_pair", "--json"]
    found = json.loads(succeed("evaluate", folder / "dense", *files).stdout)["metrics"]
    with (folder / "validation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    left, right = (encode(folder / "dense", [row[name] for row in rows]) for name in ("text", "text_pair"))
    wanted = spearmanr((left * right).sum(1), [float(row["label"]) for row in rows]).statistic
    assert found["spearman"] == pytest.approx(100 * wanted, abs=1e-3)
    options = ("--sparsity", "0.4", "--recover-epochs", "1", "--task-type", "embedding")
    report = json.loads(succeed("prune", folder / "plain", "-o", tmp_path / "out", *options, *files).stdout)
    assert set(report["models"]["pruned"]) >= {"spearman", "pearson"}
    assert is_embedder(tmp_path / "out")
    data = load_user_task(folder / "train.csv", folder / "validation.csv", text_pair_column="text_pair")
    assert data.task.type is REGRESSION
    assert isinstance(align_to_model(data, bertsurgeon.load_model(folder / "dense")).task.type, Embedding)
    assert align_to_model(data, bertsurgeon.load_model(folder / "plain")) is data


def test_a_killed_recovery_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer's checkpoints are folders of sentence-transformers, too, and are taken up again."""
    data = ("--text-file", folder / "texts.txt", "--teacher", folder / "dense", "--batch-size", "8", "--epochs", "2")
    succeed("prune", folder / "dense", "-o", tmp_path / "pruned", "--sparsity", "0.5", *data[:2])
    whole = succeed("recover", tmp_path / "pruned", "-o", tmp_path / "whole", *data, "--json")
    saved: list[Any] = []
    save = Embedder.save_pretrained

    def die(self: Embedder, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        saved.append(args)
        if len(saved) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "save_pretrained", die)
    assert run("recover", tmp_path / "pruned", "-o", tmp_path / "out", *data).exit_code == 130
    monkeypatch.setattr(Embedder, "save_pretrained", save)
    assert not (tmp_path / "out").exists()
    resumed = succeed("recover", tmp_path / "pruned", "-o", tmp_path / "out", *data, "--resume", "--json")
    wanted, found = (json.loads(result.stdout)["metrics"] for result in (whole, resumed))
    assert found == pytest.approx(wanted, abs=1e-2)


def test_the_encoder_may_lie_in_a_folder_of_its_own(folder: Path, tmp_path: Path) -> None:
    """As old models have it; what is written has it at the top."""
    old = tmp_path / "old"
    (old / "0_Transformer").mkdir(parents=True)
    for path in (folder / "dense").iterdir():
        if path.is_dir():
            (old / path.name).mkdir()
            for file in path.iterdir():
                (old / path.name / file.name).write_bytes(file.read_bytes())
        else:
            place = old if path.name in ("modules.json", "config_sentence_transformers.json") else old / "0_Transformer"
            (place / path.name).write_bytes(path.read_bytes())
    entries = json.loads((old / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(entries))
    assert encoder_folder(old) == old / "0_Transformer"
    texts = sentences(3)
    np.testing.assert_allclose(
        embed(bertsurgeon.load_model(old), old, texts), encode(folder / "dense", texts), atol=1e-6
    )
    succeed("prune", old, "-o", tmp_path / "out", "--sparsity", "0.5", "--text-file", folder / "texts.txt")
    assert encoder_folder(tmp_path / "out") == tmp_path / "out"
    assert encode(tmp_path / "out", texts).shape == (3, 24)


def test_a_head_of_setfit_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("bertsurgeon.progress.note_once", notes.append)
    shutil.copytree(folder / "plain", tmp_path / "setfit")
    load_embedder(tmp_path / "setfit")
    assert not any("SetFit" in note for note in notes)
    (tmp_path / "setfit" / "model_head.pkl").write_bytes(b"")
    load_embedder(tmp_path / "setfit")
    assert "classification head of SetFit (model_head.pkl), which is left out" in notes[-2] + notes[-1]


def test_a_decoder_embeds(folder: Path, tmp_path: Path) -> None:
    make_model(AutoModel, "llama").save_pretrained(tmp_path / "llama")
    load_tokenizer(folder / "plain").save_pretrained(tmp_path / "llama")
    dense = load_embedder(tmp_path / "llama")
    pruned, report = bertsurgeon.prune(dense, AutoConfig(Sparsity(0.5), batch_size=8), make_batches("llama")[:1])
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    pruned.save_pretrained(tmp_path / "pruned")
    texts = sentences(5, seed=9)
    np.testing.assert_allclose(embed(pruned, folder / "plain", texts), encode(tmp_path / "pruned", texts), atol=1e-5)


def test_rerankers(tmp_path: Path) -> None:
    write_model(tmp_path / "model", num_labels=1)
    dense = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu", activation_fn=torch.nn.Tanh())
    dense.save_pretrained(str(tmp_path / "dense"))
    pairs = list(zip(sentences(40), sentences(40, seed=1), strict=True))
    with (tmp_path / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("query", "passage"), *pairs])
    data = ("--text-file", tmp_path / "pairs.csv", "--text-column", "query", "--text-pair-column", "passage")
    options = ("--sparsity", "0.3", "--recover-epochs", "1", "--json", *data)
    found = json.loads(succeed("prune", tmp_path / "dense", "-o", tmp_path / "out", *options).stdout)
    assert found["models"]["pruned"]["agreement"] > 50  # correlation of the scores
    pruned = sentence_transformers.CrossEncoder(str(tmp_path / "out"), device="cpu")
    assert isinstance(pruned.activation_fn, torch.nn.Tanh)
    model = bertsurgeon.load_model(tmp_path / "out")
    batch = load_tokenizer(tmp_path / "out")(*zip(*pairs[:6], strict=True), padding=True, return_tensors="pt")
    with torch.inference_mode():
        scores = model(**batch).logits[:, 0].tanh().numpy()
    np.testing.assert_allclose(pruned.predict(pairs[:6]), scores, atol=1e-5)


def test_curvature_is_that_of_the_jacobian(folder: Path) -> None:
    """E[δδᵀ] over random signs is what JᵀJ gives, J being the Jacobian of the embedding."""
    model, tokenizer = bertsurgeon.load_model(folder / "dense"), load_tokenizer(folder / "dense")
    rows = tokenize(Dataset.from_dict({"text": ["the film was fine"] * 1500}), tokenizer, task_type=Embedding())
    batches = batches_of(rows, tokenizer, 1500, 500, 0)
    found = collect_statistics(model, batches, gradients=False, curvature=True)
    kept: dict[str, Tensor] = {}
    matrix = Encoder(model).matrix(1, "output")
    matrix.register_forward_hook(lambda _, __, output: kept.update(z=output))
    one = {name: value[:1] for name, value in batches[0].items()}
    embedding = model(**one).sentence_embedding[0]
    jacobian = torch.stack([torch.autograd.grad(entry, kept["z"], retain_graph=True)[0][0] for entry in embedding])
    wanted = torch.einsum("vti,vtj->ij", jacobian, jacobian).double()
    assert float((found.curvature[1, "output"] - wanted).norm() / wanted.norm()) < 0.15


def test_the_loss_against_oneself() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8)
    assert distillation_loss(teacher, teacher, 2.0, EMBEDDINGS) == 0
    loss = distillation_loss(student, teacher, 2.0, EMBEDDINGS)
    left, right = (F.normalize(z, dim=-1) @ F.normalize(z, dim=-1).T for z in (student, teacher))
    pairs = [(left[i, j] - right[i, j]) ** 2 for i in range(6) for j in range(6) if i != j]
    distance = ((student - teacher) ** 2).sum() / (teacher**2).sum()
    torch.testing.assert_close(loss, distance + torch.stack(pairs).mean())
    loss.backward()
    assert student.grad is not None
    assert (student.grad != 0).any()
    alone = distillation_loss(student[:1], teacher[:1], 2.0, EMBEDDINGS)
    torch.testing.assert_close(alone, ((student[:1] - teacher[:1]) ** 2).sum() / (teacher[:1] ** 2).sum())


def test_neighbors() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(60, 16, generator=generator)
    second = first + 0.5 * torch.randn(60, 16, generator=generator)
    found = neighbor_metrics(first, second)
    left, right = (F.normalize(z, dim=-1) @ F.normalize(z, dim=-1).T for z in (first, second))
    recalls, overlaps = [], []
    for row in range(60):
        others = [column for column in range(60) if column != row]
        ranked = [sorted(others, key=lambda c, s=side, r=row: -float(s[r, c])) for side in (left, right)]  # type: ignore[misc]
        target = torch.tensor([column in ranked[0][:10] for column in others])
        recalls.append(float(retrieval_recall(right[row, others], target, top_k=10)))
        overlaps.append(np.mean([len({*ranked[0][:d]} & {*ranked[1][:d]}) / d for d in range(1, 11)]))
    assert found["recall_at_10"] == pytest.approx(100 * np.mean(recalls))
    assert found["rank_overlap"] == pytest.approx(100 * np.mean(overlaps))
    assert 50 < found["cosine"] < 100
    assert neighbor_metrics(first, 3 * first) == pytest.approx(dict.fromkeys(found, 100.0))
    assert "cosine" not in neighbor_metrics(first, first[:, :8])
    assert neighbor_metrics(first[:12], first[:12])["recall_at_10"] == 100
    for count in (1, 11):
        assert "recall_at_10" not in neighbor_metrics(first[:count], second[:count])
        assert neighbor_metrics(first[:count], first[:count])["rank_overlap"] == 100


def test_bad_input(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        return " ".join(result.stderr.split())

    files = [f"--{part}-file={folder / part}.csv" for part in ("train", "validation")]
    texts = ("--text-file", folder / "texts.txt")
    assert "name a --reference" in says("evaluate", folder / "dense", *texts)
    assert "heads of different types" in says("evaluate", folder / "dense", "--reference", folder / "plain", *texts)
    assert "sentence-transformers first" in says(
        "finetune",
        folder / "plain",
        *files,
        "--text-pair-column",
        "text_pair",
        "--task-type",
        "embedding",
        "-o",
        tmp_path / "o",
    )
    named = says("prune", folder / "dense", *files, "--sparsity", "0.5", "-o", tmp_path / "o")
    assert "head for an embedding of sentences" in named  # single texts with numbers are no task for it
    assert not (tmp_path / "o").exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "modules.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"modules.json is damaged"):
        bertsurgeon.load_model(tmp_path / "broken")
    words = modules.Transformer(str(folder / "plain"))
    pooling = modules.Pooling(32)
    other = sentence_transformers.SentenceTransformer(modules=[words, modules.LSTM(32, 16), pooling], device="cpu")
    with pytest.raises(ModelError, match=r"consists of Transformer, LSTM, Pooling; only"):
        Embedder(words.model, other)
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    assert "pip install 'bertsurgeon[sentence]'" in says("inspect", folder / "dense")


def test_from_python(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = bertsurgeon.load_model(folder / "dense"), load_tokenizer(folder / "dense")
    data = tokenize(Dataset.from_dict({"text": sentences(40)}), tokenizer, task_type=task_type_of(model))
    pruned, report = bertsurgeon.prune(model, AutoConfig(Sparsity(0.5)), data, tokenizer)
    assert report.sparsity == pytest.approx(0.5, abs=0.02)
    pruned.save_pretrained(tmp_path / "out")
    texts = sentences(4, seed=7)
    np.testing.assert_allclose(encode(tmp_path / "out", texts), embed(pruned, folder / "dense", texts), atol=1e-5)


def test_a_trimmed_embedder_tokenizes_for_itself(folder: Path, tmp_path: Path) -> None:
    texts = sentences(20, seed=4)[:6]
    model = bertsurgeon.load_model(folder / "dense")
    smaller, tokenizer, report = bertsurgeon.trim_vocabulary(model, texts, load_tokenizer(folder / "dense"))
    assert report.kept < report.total
    smaller.save_pretrained(tmp_path / "saved")
    bertsurgeon.save_model(smaller, tmp_path / "whole", tokenizer)
    wanted = encode(folder / "dense", texts)
    for name in ("saved", "whole"):
        np.testing.assert_allclose(encode(tmp_path / name, texts), wanted, atol=1e-6)
        assert sentence_transformers.SentenceTransformer(str(tmp_path / name), device="cpu").max_seq_length == 20
