"""One real run: a pretrained MiniLM, fine-tuned for 128 steps, keeps its quality without half its encoder."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BatchEncoding, PreTrainedModel, set_seed

from bertsurgeon import AutoConfig, PgbConfig, Sparsity, evaluate, load_model, prune, save_model
from bertsurgeon.recovery import TrainingConfig, train
from bertsurgeon.tasks import TaskData, limit_rows, load_task, tokenize
from bertsurgeon.workflows.inputs import resolve_model
from bertsurgeon.workflows.train_and_save import load_for_finetuning

GLUE = Path(os.environ.get("GLUE_DIR", Path(__file__).parents[3] / "shared" / "data" / "glue"))


@pytest.fixture(scope="module")
def data() -> TaskData:
    """SST-2 where its files are at hand (``GLUE_DIR``), docstrings anywhere else."""
    sst2 = (GLUE / "SST-2").is_dir()
    return limit_rows(load_task("sst2", GLUE) if sst2 else load_task("docstrings"), train=4096, validation=480)


@torch.no_grad()
def logits(model: PreTrainedModel, batch: BatchEncoding) -> Tensor:
    found: Tensor = model.eval()(**batch).logits
    return found


def test_half_by_pgb_and_three_quarters_by_auto_cost_few_points(data: TaskData, tmp_path: Path) -> None:
    set_seed(0)
    model, tokenizer = load_for_finetuning(resolve_model("minilm"), data)
    train_set, validation_set = (tokenize(part, tokenizer, 64) for part in (data.train, data.validation))
    train(
        model,
        TrainingConfig(learning_rate=1e-4, max_steps=128, bf16=True),
        train_set,
        tokenizer,
        work_dir=tmp_path / "work",
    )
    metric = data.task.primary_metric
    dense = evaluate(model, data.task, validation_set, tokenizer)[metric]
    least, margin = (80, 4) if data.task.name == "sst2" else (65, 8)  # two classes, or four
    assert dense > least

    pruned, report = prune(model, PgbConfig(Sparsity(0.5), samples=256), train_set, tokenizer)
    assert abs(report.sparsity - 0.5) < 0.005
    assert evaluate(pruned, data.task, validation_set, tokenizer)[metric] >= dense - margin

    uncompensated, _ = prune(model, PgbConfig(Sparsity(0.5), samples=256, compensation="none"), train_set, tokenizer)
    batch = tokenizer(data.validation["text"][:64], padding=True, return_tensors="pt")
    wanted, found, uncorrected = (logits(one, batch) for one in (model, pruned, uncompensated))
    assert (found - wanted).square().mean() < (uncorrected - wanted).square().mean()

    quarter, report = prune(model, AutoConfig(Sparsity(0.75), samples=256), train_set, tokenizer)
    assert abs(report.sparsity - 0.75) < 0.005
    assert evaluate(quarter, data.task, validation_set, tokenizer)[metric] >= dense - margin

    save_model(pruned, tmp_path / "pruned", tokenizer)
    for reloaded in (
        load_model(tmp_path / "pruned"),
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "pruned"),
    ):
        assert torch.equal(logits(reloaded, batch), found)
