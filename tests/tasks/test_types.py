"""What each type of task predicts, where it counts, and which losses follow from it."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from bertsurgeon.calibration import summed_loss
from bertsurgeon.calibration.gradients import fisher_surrogate
from bertsurgeon.embedder import Embedder
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.recovery import distillation_loss
from bertsurgeon.recovery.distillation import outputs_loss
from bertsurgeon.tasks import TASK_TYPES, Collator, get_task_type, has_labels, head_of, model_inputs, task_type_of
from bertsurgeon.tasks.distributions import BERNOULLI, CATEGORICAL, NORMAL
from bertsurgeon.tasks.types.heads import mask_logits
from cli_helpers import write_model
from conftest import make_config

HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "classification": (AutoModelForSequenceClassification, {"num_labels": 3}),
    "regression": (AutoModelForSequenceClassification, {"num_labels": 1}),
    "multi-label": (
        AutoModelForSequenceClassification,
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
    "token-classification": (AutoModelForTokenClassification, {"num_labels": 5}),
    "question-answering": (AutoModelForQuestionAnswering, {}),
    "embedding": (AutoModel, {}),
}


class Transformer(nn.Module):
    """Stands where sentence-transformers has the encoder and its tokenizer."""


def make(name: str, architecture: str = "bert", seed: int = 0) -> PreTrainedModel:
    head, options = HEADS[name]
    torch.manual_seed(seed)
    model: PreTrainedModel = head.from_config(make_config(architecture, **options))
    if name == "embedding":
        modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
        model = Embedder(model, nn.Sequential(Transformer(), modules.Pooling(48), modules.Normalize()))
    return model.eval()


def make_batch() -> dict[str, Tensor]:
    """Three texts of 6, 4 and 5 tokens, of which some begin words."""
    mask = (torch.arange(6) < torch.tensor([[6], [4], [5]])).long()
    ids = torch.randint(5, 100, mask.shape, generator=torch.Generator().manual_seed(0))
    starts = mask * torch.tensor([[0, 1, 0, 1, 1, 0], [0, 1, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0]])
    return {"input_ids": ids * mask, "attention_mask": mask, "word_starts": starts}


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("name", TASK_TYPES)
def test_task_type_of_a_model(name: str, architecture: str) -> None:
    model = make(name, architecture)
    assert task_type_of(model) is TASK_TYPES[name]
    outputs = model(**model_inputs(make_batch()))
    for output, of_tokens in TASK_TYPES[name].outputs.items():
        assert (outputs[output].shape[:2] == (3, 6)) == of_tokens


def test_a_model_without_a_head_has_no_task_type() -> None:
    with pytest.raises(ModelError, match=r"no head for a task.*ForQuestionAnswering"):
        task_type_of(AutoModel.from_config(make_config("bert")))
    with pytest.raises(OptionError, match=r"no task type 'translation'.*multi-label"):
        get_task_type("translation")


def test_second_moments_are_the_fisher_information() -> None:
    row = torch.tensor([2.0, 0.0, -1.0])
    p, q = row.softmax(0), row.sigmoid()
    wanted = {
        CATEGORICAL: p.diag() - p.outer(p),
        BERNOULLI: (q * (1 - q)).diag(),
        NORMAL: torch.eye(3),
    }
    for distribution, fisher in wanted.items():
        logits = row.repeat(40_000, 1).requires_grad_()
        fisher_surrogate(logits, torch.Generator().manual_seed(0), distribution).backward()
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad.T @ logits.grad / len(logits), fisher, rtol=0, atol=1.5e-2)


def test_one_draw_has_the_fisher_information_of_two_classes() -> None:
    """Also of three, if one of them is impossible; an estimate from few texts has no noise of draws then."""
    for row in (torch.tensor([0.4, -0.3]), torch.tensor([0.4, -0.3, -60.0])):
        p = row.softmax(0)
        for signs in ([1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, 1.0, -1.0]):
            direction = CATEGORICAL.fisher_direction(row.unsqueeze(0), torch.tensor([signs[: len(row)]]))[0]
            torch.testing.assert_close(torch.outer(direction, direction), p.diag() - p.outer(p), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_choices_are_not_decomposed(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 600, generator=torch.Generator().manual_seed(0)).to(dtype)
    signs = torch.ones(3, 600, dtype=dtype)
    monkeypatch.setattr(torch.linalg, "eigh", lambda _: pytest.fail("decomposed"))
    direction = CATEGORICAL.fisher_direction(logits, signs)
    assert direction.dtype == dtype
    p = logits.float().softmax(-1)
    expected = p.sqrt() - p * p.sqrt().sum(-1, keepdim=True)
    torch.testing.assert_close(direction.float(), expected, rtol=2e-2, atol=1e-2)


def test_hidden_choices_take_no_part() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0, 9.0]]).repeat(40_000, 1).requires_grad_()
    hidden = mask_logits(logits, torch.tensor([True, True, True, False]))
    fisher_surrogate(hidden, torch.Generator().manual_seed(0), CATEGORICAL).backward()
    assert logits.grad is not None
    p = F.pad(logits[0, :3].detach().softmax(0), (0, 1))
    torch.testing.assert_close(logits.grad.T @ logits.grad / len(logits), p.diag() - p.outer(p), rtol=0, atol=6e-3)
    student = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    teacher = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    mask = torch.tensor([True, True, True, False])
    loss = distillation_loss(mask_logits(student, mask), mask_logits(teacher, mask), 2.0)
    torch.testing.assert_close(loss, distillation_loss(student[:, :3], teacher[:, :3], 2.0))


def test_sigmoids_are_distilled_class_by_class() -> None:
    student, teacher = (torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, 2.0, BERNOULLI), expected)
    assert distillation_loss(teacher, teacher, 2.0, BERNOULLI).abs() < 1e-6


def counted(name: str, batch: dict[str, Tensor]) -> Tensor:
    """Where the outputs of a task type count."""
    if name == "token-classification":
        return batch["word_starts"].bool()
    return batch["attention_mask"].bool() if name == "question-answering" else torch.ones(3, dtype=torch.bool)


@pytest.mark.parametrize("name", TASK_TYPES)
def test_the_surrogate_reads_what_counts(name: str) -> None:
    model, batch, task_type = make(name), make_batch(), TASK_TYPES[name]
    kept: dict[str, Tensor] = {}

    def keep(_: Any, __: Any, outputs: Any) -> None:
        for output in task_type.outputs:
            outputs[output].retain_grad()
            kept[output] = outputs[output]

    model.register_forward_hook(keep)
    summed_loss(model, batch, torch.Generator().manual_seed(0)).backward()
    where = counted(name, batch)
    for z in kept.values():
        gradient = z.grad
        assert gradient is not None
        assert (gradient[where].reshape(int(where.sum()), -1) != 0).any(-1).all()
        assert (gradient[~where] == 0).all()


@pytest.mark.parametrize("name", TASK_TYPES)
def test_distillation_reads_what_counts(name: str) -> None:
    student, teacher, task_type, batch = make(name), make(name, seed=1), TASK_TYPES[name], make_batch()
    with torch.no_grad():
        said, wanted = (dict(model(**model_inputs(batch))) for model in (student, teacher))
    loss = outputs_loss(task_type, said, wanted, batch, 2.0)
    assert loss > 1e-4
    where = counted(name, batch)
    for output in task_type.outputs:
        said[output] = said[output].clone()
        said[output][~where] += 5.0
    torch.testing.assert_close(outputs_loss(task_type, said, wanted, batch, 2.0), loss)
    for output in task_type.outputs:
        said[output][where] += torch.randn(said[output][where].shape, generator=torch.Generator().manual_seed(0))
    assert outputs_loss(task_type, said, wanted, batch, 2.0) != loss
    assert task_type.agreement([wanted], [wanted], [batch]) == pytest.approx(100.0)
    assert task_type.agreement([said], [wanted], [batch]) < 100.0


def test_the_labelled_loss_counts_every_word_once() -> None:
    model, batch = make("token-classification"), make_batch()
    labels = torch.where(batch["word_starts"].bool(), 2, -100)
    found = summed_loss(model, {**batch, "labels": labels}, torch.Generator())
    logits = model(**model_inputs(batch)).logits
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    torch.testing.assert_close(found, expected)
    assert int(batch["word_starts"].sum()) == 7


def test_the_labelled_loss_of_answers() -> None:
    model, batch = make("question-answering"), make_batch()
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    starts, ends = torch.tensor([1, 2, 0]), torch.tensor([3, 2, 0])
    labelled = {**batch, "start_positions": starts, "end_positions": ends}
    outputs = model(**model_inputs(batch))
    expected = F.cross_entropy(outputs.start_logits, starts) + F.cross_entropy(outputs.end_logits, ends)
    torch.testing.assert_close(summed_loss(model, labelled, torch.Generator()), 3 * expected / 2)
    assert has_labels(labelled)
    assert not has_labels(batch)


def test_columns_are_padded_by_what_they_are(tmp_path: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "model"))
    rows = [
        {"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": [-100, 1, -100], "word_starts": [0, 1, 0]},
        {"input_ids": [2, 3], "attention_mask": [1, 1], "labels": [-100, -100], "word_starts": [0, 0]},
    ]
    batch = Collator(tokenizer)(Dataset.from_list(rows).to_list())
    assert batch["labels"].tolist() == [[-100, 1, -100], [-100, -100, -100]]
    assert batch["word_starts"].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    tokenizer.padding_side = "left"
    batch = Collator(tokenizer)(rows)
    assert batch["labels"].tolist() == [[-100, 1, -100], [-100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert batch["word_starts"].tolist() == [[0, 1, 0], [0, 0, 0]]
    several = [{"input_ids": [2, 3], "attention_mask": [1, 1], "labels": value} for value in ([0.0, 1.0], [1.0, 0.0])]
    assert Collator(tokenizer)(several)["labels"].dtype == torch.float32


def test_heads_without_a_task() -> None:
    """Models of images and of language have losses and predictions, too."""
    torch.manual_seed(0)
    language = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=100, n_positions=16)).eval()
    batch = model_inputs(make_batch())
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    logits = language(**batch).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(summed_loss(language, {**batch, "labels": labels}, torch.Generator()), expected)
    [prediction] = head_of(language).predictions({"logits": logits}, batch)
    assert prediction.z.shape == (15, 100)
    assert head_of(language).num_losses(batch) == 12
    masked = AutoModelForMaskedLM.from_config(make_config("bert")).eval()
    [prediction] = head_of(masked).predictions(masked(**batch), batch)
    assert prediction.z.shape == (15, 100)
    assert torch.isfinite(summed_loss(masked, batch, torch.Generator().manual_seed(0)))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    images = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)).eval()
    pixels = {"pixel_values": torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    found = summed_loss(images, {**pixels, "labels": torch.arange(5) % 3}, torch.Generator())
    torch.testing.assert_close(found, F.cross_entropy(images(**pixels).logits, torch.arange(5) % 3, reduction="sum"))
    with pytest.raises(ModelError, match="no head for a task"):
        task_type_of(images)
    with pytest.raises(ModelError, match="no supported head"):
        head_of(AutoModel.from_config(make_config("bert")))
