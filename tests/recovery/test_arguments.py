"""Training options, TrainingArguments and callbacks: what reaches the Trainer, and what is refused."""

from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bertsurgeon import ObertConfig, Sparsity, prune
from bertsurgeon.checkpoint import load_model
from bertsurgeon.errors import OptionError
from bertsurgeon.recovery import (
    MaskCallback,
    TrainingConfig,
    recover,
    train,
)
from bertsurgeon.recovery import arguments as training_arguments
from bertsurgeon.recovery.learning_rate import recovery_rate
from cli_helpers import tokenized_texts


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 60)


@pytest.mark.parametrize(
    "bad",
    [
        {"hidden_weight": -1.0},
        {"epochs": 0},
        {"epochs": float("inf")},
        {"distillation_weight": 1.5},
        {"learning_rate": 0.0},
        {"temperature": 0.0},
        {"warmup": 1.0},
        {"seed": -1},
        {"seed": 2**32},
        *({name: float("nan")} for name in ("epochs", "learning_rate", "temperature", "weight_decay", "hidden_weight")),
    ],
    ids=str,
)
def test_impossible_options(bad: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        TrainingConfig(**bad)  # type: ignore[arg-type]


class Recorder(TrainerCallback):
    """Keeps the arguments of the Trainer, and counts the steps."""

    steps = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.arguments = args

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.steps += 1


@pytest.mark.parametrize(
    ("options", "with_teacher", "rate"),
    [
        ({}, False, 5e-5),
        ({}, True, 2e-5),
        ({"distillation_weight": 0.0}, True, 5e-5),
        ({"distillation_weight": 0.0, "hidden_weight": 1.0}, True, 2e-5),
        ({"learning_rate": 3e-4}, True, 3e-4),
    ],
)
def test_the_default_learning_rate(
    options: dict[str, float],
    with_teacher: bool,
    rate: float,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    recorder = Recorder()
    config = TrainingConfig(max_steps=1, **options)  # type: ignore[arg-type]
    teacher = load_model(folder / "dense") if with_teacher else None
    model = load_model(folder / "dense")
    train(model, config, dataset, tokenizer, work_dir=tmp_path, teacher=teacher, callbacks=[recorder])
    assert recorder.arguments.learning_rate == rate
    assert recorder.steps == 1


@pytest.mark.parametrize(
    ("agreement", "rate"),
    [(100.0, 2e-5), (97.0, 2e-5), (93.5, 4.5e-5), (90.0, 1e-4), (0.0, 1e-4), (-100.0, 1e-4), (float("nan"), 1e-4)],
)
def test_the_learning_rate_of_a_recovery_rises_with_the_damage(agreement: float, rate: float) -> None:
    assert recovery_rate(agreement) == rate


@pytest.mark.parametrize(("options", "rate"), [({}, 1e-4), ({"learning_rate": 3e-5}, 3e-5)])
def test_the_agreement_with_the_teacher_sets_the_learning_rate(
    options: dict[str, float], rate: float, folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset
) -> None:
    model, teacher = load_model(folder / "dense"), load_model(folder / "dense")
    with torch.no_grad():
        model.classifier.weight.neg_()
        model.classifier.bias.neg_()
    config = TrainingConfig(max_steps=1, **options)  # type: ignore[arg-type]
    assert train(model, config, dataset, tokenizer, teacher=teacher).learning_rate == rate


def test_training_arguments_are_passed_on(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    """Without a folder of its own, a training leaves nothing behind."""
    recorder = Recorder()
    ends = []
    for arguments in ({}, {"max_grad_norm": 1e-9, "optim": "sgd"}):
        model = load_model(folder / "dense")
        start = model.classifier.weight.detach().clone()
        config = TrainingConfig(max_steps=2, learning_rate=1e-3, warmup=0.0)
        train(model, config, dataset, tokenizer, callbacks=[recorder], arguments=arguments)
        ends.append(float((model.classifier.weight.detach() - start).abs().max()))
    assert recorder.arguments.max_grad_norm == 1e-9
    assert recorder.arguments.learning_rate == 1e-3
    assert not Path(recorder.arguments.output_dir).exists()
    assert 0 < ends[1] < 0.1 * ends[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"learning_rate": 1.0}, r"learning_rate is set by an option: use TrainingConfig\(learning_rate=…\)"),
        ({"num_train_epochs": 1.0}, r"TrainingConfig\(epochs=…\)"),
        ({"output_dir": "out"}, "output_dir cannot be set: it is the argument work_dir"),
        ({"max_grad_nrm": 1.0}, "has no argument max_grad_nrm"),
        ({"save_strategy": "sometimes"}, "refuses the training arguments save_strategy: .*sometimes"),
    ],
)
def test_training_arguments_that_are_refused(
    arguments: dict[str, Any],
    words: str,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
) -> None:
    model = load_model(folder / "dense")
    with pytest.raises(OptionError, match=words):
        train(model, TrainingConfig(max_steps=1), dataset, tokenizer, work_dir=tmp_path, arguments=arguments)
    with pytest.raises(OptionError, match="name it as work_dir"):
        train(model, None, dataset, tokenizer, resume=True)


def test_a_mask_callback_replaces_the_default_one(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset
) -> None:
    """A sparse model keeps its zeros; with masks that allow all weights, it does not."""
    config = ObertConfig(Sparsity(0.5), score="magnitude")
    sparse, _ = prune(load_model(folder / "dense"), config, dataset, tokenizer)
    query = sparse.bert.encoder.layer[0].attention.self.query.weight
    zeros = query == 0
    recovered = recover(sparse, TrainingConfig(max_steps=2, learning_rate=1e-3), dataset, tokenizer)
    assert recovered is sparse
    assert (query[zeros] == 0).all()
    masking = MaskCallback(sparse)
    masking.masks = {key: torch.ones_like(mask) for key, mask in masking.masks.items()}
    train(sparse, TrainingConfig(max_steps=2, learning_rate=1e-3), dataset, tokenizer, callbacks=[masking])
    assert not (query[zeros] == 0).any()


def test_every_option_of_training_has_help() -> None:
    metadata = {each.name: each.metadata for each in fields(TrainingConfig)}
    assert metadata["learning_rate"]["flag"] == "--learning-rate"
    assert metadata["dropout"]["flag"] == "--dropout/--no-dropout"
    assert TrainingConfig.__doc__ is not None
    assert all(f"    {name}: " in TrainingConfig.__doc__ for name in metadata)


@pytest.mark.parametrize("name", ["train_sampling_strategy", "group_by_length"])
def test_batches_of_similar_length_in_any_transformers_5(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        training_arguments, "TrainingArguments", make_dataclass("Arguments", [("output_dir", str), name])
    )
    assert list(training_arguments._by_length()) == [name]


def _arguments(work_dir: Path) -> TrainingArguments:
    return training_arguments.make_arguments(
        TrainingConfig(),
        work_dir,
        steps=1,
        interval=1,
        learning_rate=1e-5,
        label_names=["labels"],
        saves=False,
        overrides={},
    )


def test_one_process_trains_on_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer would use all of them, each with a whole batch, and the first one whichever is named."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 1 if self._n_gpu == 1 else 2))
    monkeypatch.setattr(training_arguments, "choose_device", lambda: torch.device("cuda", 0))
    assert _arguments(tmp_path).n_gpu == 1
    monkeypatch.setattr(training_arguments, "choose_device", lambda: torch.device("cuda", 1))
    with pytest.raises(OptionError, match="not on cuda:1; set CUDA_VISIBLE_DEVICES=1"):
        _arguments(tmp_path)
