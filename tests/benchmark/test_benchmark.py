import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertConfig, BertForSequenceClassification

from architecture_cases import CONFIGS, SIZES, make_model
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import (
    BenchmarkConfig,
    bench,
    compare_latency,
    count_flops,
    environment,
    folder_size,
    measure_memory,
    split_modes,
)
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.errors import DataError, OptionError
from bertsurgeon.plan import dense_plan
from bertsurgeon.tasks import max_input_length
from bertsurgeon.testing import toy_classifier

HIDDEN, INNER, LAYERS, LABELS = 64, 160, 3, 2


def small_bert(inner: int = INNER) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=inner,
        max_position_embeddings=64,
    )
    config.num_labels = LABELS
    return BertForSequenceClassification(config)


def hand_count(batch_size: int, length: int) -> int:
    """Two operations for every weight and token, and two products of T × T × hidden per layer (QKᵀ and ·V).

    The pooler and the classifier see one token of each text. Look-ups, softmax, norms, activations and bias
    additions are no matrix products and are not counted.
    """
    weights = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER
    layer = 2 * weights * batch_size * length + 4 * length**2 * HIDDEN * batch_size
    head = 2 * (HIDDEN * HIDDEN + HIDDEN * LABELS) * batch_size
    return LAYERS * layer + head


@pytest.mark.parametrize(("batch_size", "length"), [(1, 8), (2, 64)])
def test_flops_match_a_hand_count(batch_size: int, length: int) -> None:
    assert count_flops(small_bert(), batch_size, length) == pytest.approx(hand_count(batch_size, length), rel=0.02)


def test_flops_see_the_fused_attention() -> None:
    model = small_bert()
    assert model.config._attn_implementation == "sdpa"
    one, two = count_flops(model, 1, 32), count_flops(model, 1, 64)
    assert two > 2.1 * one  # without attention's quadratic part, twice the tokens cost at most twice as much


def test_flops_leave_the_mode_alone() -> None:
    model = small_bert().train()
    count_flops(model, 1, 8)
    assert model.training


@pytest.mark.parametrize(("batch_size", "length"), [(0, 8), (1, 0), (1, 65)])
def test_impossible_batches(batch_size: int, length: int) -> None:
    with pytest.raises(OptionError):
        count_flops(small_bert(), batch_size, length)


@pytest.mark.parametrize(
    ("name", "version"), [(name, version) for name in CONFIGS for version in range(len(CONFIGS[name])) if name != "vit"]
)
def test_a_text_as_long_as_the_model_takes(name: str, version: int) -> None:
    """The longest passes, one token more is refused, and where positions go on so do texts."""
    model = make_model(AutoModel, name, version)
    longest = max_input_length(model.config)
    with pytest.raises(OptionError, match="exceeds") if longest else nullcontext():
        count_flops(model, 2, (longest or SIZES["max_position_embeddings"]) + 1)
    assert count_flops(model, 2, longest or 1) > 0
    assert longest is None or longest >= SIZES["max_position_embeddings"] - 2


def test_latency_of_each_model() -> None:
    models = {"base": small_bert(), "narrow": small_bert(inner=32)}
    result = compare_latency(models, batch_size=2, length=16, runs=4, warmup=1)
    assert list(result) == ["base", "narrow"]
    for latency in result.values():
        assert all(value > 0 for value in asdict(latency).values())
        assert latency.min_ms <= latency.p50_ms <= latency.p95_ms <= latency.max_ms
        assert latency.throughput == pytest.approx(2000 / latency.p50_ms)
        assert (latency.batch_size, latency.length, latency.runs) == (2, 16, 4)


def test_latency_runs_in_turns_on_the_same_inputs() -> None:
    models = {"a": small_bert(), "b": small_bert()}
    calls: list[tuple[str, torch.Tensor]] = []
    for name, model in models.items():
        model.register_forward_pre_hook(
            lambda _model, _args, inputs, name=name: calls.append((name, inputs["input_ids"])),
            with_kwargs=True,
        )
    compare_latency(models, batch_size=1, length=8, runs=2, warmup=1)
    assert [name for name, _ in calls] == ["a", "b"] * 3
    assert all(torch.equal(ids, calls[0][1]) for _, ids in calls)


def test_latency_needs_something_to_measure() -> None:
    with pytest.raises(OptionError):
        compare_latency({}, 1, 8)
    with pytest.raises(OptionError):
        compare_latency({"a": small_bert()}, 1, 8, runs=0)


def test_a_benchmark_reports_ratios_to_the_first_model() -> None:
    models = {"base": small_bert(), "narrow": small_bert(inner=32)}
    report = bench(models, BenchmarkConfig(batch_sizes=(2, 4), length=16, runs=3))
    assert (report.batch_sizes, report.length, report.drawn_from_data) == ((2, 4), 16, False)
    base, narrow = report.models.values()
    assert (base.speedup, base.throughput_ratio) == (1, 1)
    assert narrow.speedup == pytest.approx(base.p50_ms / narrow.p50_ms)
    assert narrow.texts_per_second == max(latency.throughput for latency in narrow.batches.values())
    assert narrow.encoder_weights == LAYERS * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * 32)
    assert {name: row["p50_ms"] for name, row in report.to_dict()["models"].items()} == {
        name: row.p50_ms for name, row in report.models.items()
    }


def test_a_benchmark_draws_batches_from_texts() -> None:
    model, tokenizer, _ = toy_classifier()
    texts = ["a film", "a very warm film", "a film a film a film"] * 2
    report = bench({"toy": model}, BenchmarkConfig(batch_sizes=(2,), length=5, runs=2), texts, tokenizer)
    longest = max(len(ids) for ids in tokenizer(texts)["input_ids"])
    assert (report.length, report.drawn_from_data) == (longest, True)
    with pytest.raises(DataError, match="holds 6 texts, fewer than a batch of 8"):
        bench({"toy": model}, BenchmarkConfig(batch_sizes=(2, 8)), texts, tokenizer)
    with pytest.raises(OptionError, match="without a tokenizer"):
        bench({"toy": model}, None, texts)


@pytest.mark.parametrize("options", [{"batch_sizes": ()}, {"batch_sizes": (0,)}, {"threads": 0}])
def test_impossible_benchmarks(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="must be 1 or greater"):
        BenchmarkConfig(**options)


def test_folder_size_counts_the_weights_only(tmp_path: Path) -> None:
    assert folder_size(tmp_path) == 0
    (tmp_path / "model-1.safetensors").write_bytes(b"0" * 10)
    (tmp_path / "model-2.safetensors").write_bytes(b"0" * 5)
    (tmp_path / "config.json").write_text("{}")
    for name in ("pytorch_model.bin", "training_args.bin"):
        (tmp_path / name).write_bytes(b"0" * 100)
    assert folder_size(tmp_path) == 15
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    assert folder_size(tmp_path) == 100


def test_memory_of_a_pruned_model_is_its_own(tmp_path: Path) -> None:
    """What is made while a model is loaded does not count twice."""
    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048}
    model = BertForSequenceClassification(BertConfig(vocab_size=25, max_position_embeddings=64, **sizes)).eval()
    model.save_pretrained(tmp_path / "dense")
    attach_plan(model, dense_plan("bert", Encoder(model).shapes))
    model.save_pretrained(tmp_path / "planned")
    dense, planned = (measure_memory(str(tmp_path / name), 1, 8) for name in ("dense", "planned"))
    assert dense is not None
    assert planned is not None
    assert planned < 1.3 * dense


def test_memory_is_the_models_own(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=100, hidden_size=768, num_hidden_layers=8, num_attention_heads=4)
    model = BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    measured = measure_memory(str(tmp_path), 1, 8)
    assert measured is not None
    assert 0.5 * weights < measured < 3 * weights


def test_environment_can_be_published() -> None:
    facts = environment()
    assert set(facts) == {"machine", "processor", "cores", "threads", "accelerator", "versions"}
    assert set(facts["versions"]) == {"python", "torch", "transformers", "bertsurgeon"}
    assert facts["threads"] >= 1
    json.dumps(facts)


@pytest.mark.parametrize(
    ("name", "model", "modes"),
    [
        ("me@home/model", "me@home/model", []),
        ("me@home/model@bf16", "me@home/model", ["bf16"]),
        ("me@home/model@bf16@compile", "me@home/model", ["bf16", "compile"]),
        ("me@bf16", "me@bf16", []),  # there is such a folder
        ("me@bf16@compile", "me@bf16", ["compile"]),
        ("me@bf16/model", "me@bf16/model", []),
        ("@bf16", "", ["bf16"]),
    ],
)
def test_at_signs_in_names(
    name: str, model: str, modes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me@home" / "model").mkdir(parents=True)
    (tmp_path / "me@bf16").mkdir()
    assert split_modes(name) == (model, modes)
