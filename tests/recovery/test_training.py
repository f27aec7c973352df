"""Recovery: losses against a teacher, training options, and what training does to a pruned model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerState,
)

from bertsurgeon import AutoConfig, Groups, ObertConfig, PgbConfig, Sparsity, prune
from bertsurgeon.checkpoint import load_model, save_model
from bertsurgeon.errors import CheckpointError, ModelError, OptionError
from bertsurgeon.prediction import predict, predict_outputs
from bertsurgeon.recovery import (
    TrainingConfig,
    distillation_loss,
    hidden_state_loss,
    recover,
    train,
)
from bertsurgeon.tasks import Task
from cli_helpers import tokenized_texts


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> Dataset:
    return tokenized_texts(tokenizer, 60)


def test_loss_is_the_divergence_at_the_temperature() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum(-1).mean()
    assert torch.allclose(distillation_loss(student, teacher, 2.0), expected)
    assert distillation_loss(teacher, teacher, 2.0).abs() < 1e-6
    assert torch.allclose(
        distillation_loss(student[:, :1], teacher[:, :1], 2.0), F.mse_loss(student[:, :1], teacher[:, :1])
    )


def test_predictions_keep_the_order_of_the_rows(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset
) -> None:
    model = load_model(folder / "dense")
    logits = predict(model, dataset, tokenizer, 7, "")
    with torch.no_grad():
        one_by_one = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in dataset]
    assert torch.allclose(logits, torch.stack(one_by_one), atol=1e-5)


def test_a_student_comes_closer_to_its_teacher(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    teacher = load_model(folder / "dense")
    with torch.no_grad():
        teacher.classifier.weight.mul_(20)
    pruned, _ = prune(teacher, PgbConfig(Sparsity(0.7), samples=32, compensation="none"), dataset, tokenizer)
    before = predict(pruned, dataset, tokenizer, 16, "")
    target = predict(teacher, dataset, tokenizer, 16, "")
    options = TrainingConfig(epochs=6, batch_size=16, learning_rate=1e-3, distillation_weight=1.0)
    train(pruned, options, dataset, tokenizer, work_dir=tmp_path, teacher=teacher)
    after = predict(pruned, dataset, tokenizer, 16, "")
    assert distillation_loss(after, target, 2.0) < 0.5 * distillation_loss(before, target, 2.0)


@pytest.mark.parametrize("dropout", [None, True, False])
@pytest.mark.parametrize("distilled", [True, False])
def test_dropout_acts_only_without_a_teacher_unless_asked(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    dropout: bool | None,
    distilled: bool,
) -> None:
    def trained(probability: float) -> torch.Tensor:
        student = load_model(folder / "dense")
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = probability
        options = TrainingConfig(batch_size=16, max_steps=2, dropout=dropout)
        train(student, options, dataset, tokenizer, work_dir=tmp_path / str(probability), teacher=teacher)
        assert not student.training
        assert not student._forward_pre_hooks
        return student.classifier.weight.detach()

    teacher = load_model(folder / "dense") if distilled else None
    acts = not torch.equal(trained(0.0), trained(0.5))
    assert acts == (not distilled if dropout is None else dropout)


def test_hidden_states_are_compared_as_a_share_of_their_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = [3 * torch.randn(4, 6, 5, generator=generator) + 1 for _ in range(3)]
    mask = torch.ones(4, 6)
    mask[:, 4:] = 0
    noise = [state + 3 * torch.randn(4, 6, 5, generator=generator) for state in teacher]
    assert hidden_state_loss(teacher, teacher, mask, [0, 1, 2]) == 0
    assert 0.6 < hidden_state_loss(noise, teacher, mask, [0, 1, 2]) < 1.6
    spoiled = [state.clone() for state in teacher]
    spoiled[1] += 100
    for state in spoiled:
        state[:, 4:] = -50  # padding
    assert hidden_state_loss(spoiled, teacher, mask, [0, 2]) == 0


def test_hidden_states_come_closer_to_the_teachers(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    teacher = load_model(folder / "dense")
    distances = []
    for weight in (0.0, 5.0):
        student, _ = prune(teacher, AutoConfig(Sparsity(0.7), samples=32), dataset, tokenizer)
        options = TrainingConfig(
            epochs=4, batch_size=16, learning_rate=1e-3, distillation_weight=1.0, hidden_weight=weight
        )
        train(student, options, dataset, tokenizer, work_dir=tmp_path / str(weight), teacher=teacher)
        batch = tokenizer.pad(dataset.select(range(8)).remove_columns("labels").to_list(), return_tensors="pt")
        with torch.no_grad():
            targets, states = (model(**batch, output_hidden_states=True).hidden_states for model in (teacher, student))
        distances.append(float(hidden_state_loss(states, targets, batch["attention_mask"], [1, 2])))
    assert distances[1] < 0.8 * distances[0]


def test_bfloat16_training_keeps_the_weights_in_float32(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    ends = []
    for bf16 in (False, True):
        model = load_model(folder / "dense")
        teacher = load_model(folder / "dense")
        with torch.no_grad():
            teacher.classifier.weight.mul_(20)
        options = TrainingConfig(epochs=2, learning_rate=1e-3, hidden_weight=1.0, bf16=bf16)
        train(model, options, dataset, tokenizer, work_dir=tmp_path / str(bf16), teacher=teacher)
        assert {value.dtype for value in model.parameters()} == {torch.float32}
        save_model(model, tmp_path / f"saved-{bf16}")
        again = load_model(tmp_path / f"saved-{bf16}")  # computes in float32, and so does what was trained
        assert torch.equal(*(predict(one, dataset, tokenizer, 16, "") for one in (model, again)))
        ends.append(torch.cat([value.detach().flatten() for value in model.parameters()]))
    assert 0 < (ends[0] - ends[1]).norm() < 0.05 * ends[0].norm()


def test_training_without_labels_needs_a_teacher(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    model = load_model(folder / "dense")
    unlabeled = dataset.remove_columns("labels")
    for teacher, distillation_weight in ((None, 1.0), (model, 0.9)):
        with pytest.raises(OptionError, match="Unlabeled data requires a teacher"):
            train(
                model,
                TrainingConfig(distillation_weight=distillation_weight),
                unlabeled,
                tokenizer,
                work_dir=tmp_path,
                teacher=teacher,
            )


def test_texts_and_batches_are_data(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    """The same texts in any form train the same weights; without labels, a teacher is needed."""
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in dataset["input_ids"]]
    batch = tokenizer.pad(dataset.remove_columns("labels").to_list(), return_tensors="pt")
    config = TrainingConfig(max_steps=2, learning_rate=1e-3)
    dense = load_model(folder / "dense")
    teacher = load_model(folder / "dense")
    with torch.no_grad():
        teacher.classifier.weight.mul_(20)
    weights = []
    for data in (dataset.remove_columns("labels"), texts, [batch]):
        sparse, _ = prune(dense, ObertConfig(Sparsity(0.5), score="magnitude"), dataset, tokenizer)
        recover(sparse, config, data, tokenizer, teacher=teacher)
        weights.append(sparse.classifier.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], dense.classifier.weight)
    with pytest.raises(OptionError, match="requires a teacher"):
        recover(sparse, config, texts, tokenizer)


@pytest.mark.parametrize(
    ("options", "expected_texts", "steps"),
    [
        ({"epochs": 0.5}, 30, 3),
        ({"epochs": 2.0}, 60, 12),
        ({"epochs": 2.0, "max_steps": 2}, 20, 2),
        ({"epochs": 0.5, "max_steps": 9}, 30, 3),
    ],
    ids=str,
)
def test_the_teacher_runs_on_no_more_texts_than_are_used(
    options: dict[str, float],
    expected_texts: int,
    steps: int,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts: list[int] = []

    def counted(model: PreTrainedModel, rows: Dataset, *rest: Any) -> list[dict[str, torch.Tensor]]:
        texts.append(len(rows))
        return predict_outputs(model, rows, *rest)

    monkeypatch.setattr("bertsurgeon.recovery.training.predict_outputs", counted)
    model, teacher = load_model(folder / "dense"), load_model(folder / "dense")
    config = TrainingConfig(batch_size=10, **options)  # type: ignore[arg-type]
    train(model, config, dataset, tokenizer, work_dir=tmp_path, teacher=teacher)
    assert texts == [expected_texts]
    state = TrainerState.load_from_json(str(tmp_path / f"checkpoint-{steps}" / "trainer_state.json"))
    assert state.max_steps == steps


@pytest.mark.parametrize("keep_best", [False, True])
def test_a_training_that_diverged_is_no_success(
    keep_best: bool, folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    model = load_model(folder / "dense")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    options = TrainingConfig(batch_size=16, learning_rate=1e38, keep_best=keep_best, dropout=False)
    if keep_best:  # the start is the best that there is
        task = Task("toy", ("accuracy",), ("0", "1"))
        train(model, options, dataset, tokenizer, validation=dataset, task=task, work_dir=tmp_path)
        assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    else:
        with pytest.raises(ModelError, match=r"diverged .* lower learning rate"):
            train(model, options, dataset, tokenizer, work_dir=tmp_path)


def test_a_run_of_another_model_is_not_resumed(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    dense = load_model(folder / "dense")
    half, quarter = (prune(dense, PgbConfig(Groups(count), samples=32), dataset, tokenizer).model for count in (2, 4))
    train(half, TrainingConfig(max_steps=2, batch_size=8), dataset, tokenizer, work_dir=tmp_path)
    with pytest.raises(CheckpointError, match="trained another model; resume it with that model, or start anew"):
        train(quarter, TrainingConfig(max_steps=2, batch_size=8), dataset, tokenizer, work_dir=tmp_path, resume=True)


def test_a_run_is_resumed_with_the_options_that_it_began_with(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    def go(resume: bool, **options: Any) -> float:
        config = TrainingConfig(**{"max_steps": 2, "batch_size": 8, **options})
        model = load_model(folder / "dense")
        return train(model, config, dataset, tokenizer, work_dir=tmp_path, resume=resume).learning_rate

    go(False, learning_rate=1e-4)
    assert go(True) == 1e-4  # not the default
    with pytest.raises(CheckpointError, match=r"has a learning rate of 0\.0001, not 0\.001; resume it without"):
        go(True, learning_rate=1e-3)
    with pytest.raises(CheckpointError, match="takes 2 steps, and these options and data take 3"):
        go(True, max_steps=3)
