"""Upstream pruning: masked language modelling, its masks, tied heads, resumption, and the transfer to a task."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import ObertConfig, Sparsity, load_model, prune, save_model
from bertsurgeon.checkpoint import attach_sparse, check_masked_lm, load_as_saved
from bertsurgeon.errors import ModelError, OptionError
from bertsurgeon.evaluation import evaluate_masked_lm
from bertsurgeon.gradual import Distillation, LearningRate, MaskedLanguageModeling, Pruning, Recipe
from bertsurgeon.gradual.gradual_pruning import train_gradually
from bertsurgeon.layers.masks import masks_of, sparsity_of
from bertsurgeon.recovery import MaskCallback, distilled_loss
from bertsurgeon.recovery.distillation import DistillationTrainer
from bertsurgeon.tasks import IGNORED, TokenMasking, head_of, mask_tokens, tokenize
from cli_helpers import FILLER, WORDS, files, run, succeed, write_data, write_model
from conftest import make_config

RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    micro_batch_size=8,
    learning_rate=LearningRate(1e-3, 1e-4, 0.5),
    distillation=Distillation(0.5, 2.0),
    masked_lm=MaskedLanguageModeling(0.3),
    pruning=Pruning(0.8, 0.4, 0, 1.5, 0.25, block_size=16, damping=1e-4, gradients=8, gradient_batch_size=4),
)


def make_masked_lm(source: Path, folder: Path) -> Path:
    """A pre-trained model with the vocabulary of ``source``."""
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_pretrained(source)
    with torch.no_grad():
        for parameter in model.cls.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upstream")
    make_masked_lm(write_model(folder / "classifier"), folder / "dense")
    write_data(folder / "train.csv", 64, seed=1)
    write_data(folder / "validation.csv", 32, seed=2)
    words = [*FILLER, *WORDS["good"], *WORDS["bad"]]
    lines = [" ".join(words[(i * j) % len(words)] for j in range(1, 4 + i % 7)) for i in range(1, 73)]
    (folder / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    lines = (folder / "texts.txt").read_text(encoding="utf-8").splitlines()
    return tokenize(Dataset.from_dict({"text": lines[:64]}), tokenizer)


# masks


def test_masks_depend_on_seed_epoch_and_texts_alone(tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    first, second = mask_tokens(tokenizer, 0.3, 0), mask_tokens(tokenizer, 0.3, 0)
    torch.rand(7)  # what others draw does not matter
    expected = first(list(dataset.select(range(8))))
    second(list(dataset.select(range(8, 16))))  # nor what was masked before
    again = second(list(dataset.select(range(8))))
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    others = replace(first, epoch=1), mask_tokens(tokenizer, 0.3, 1)
    for other in others:
        assert not torch.equal(other(list(dataset.select(range(8))))["labels"], expected["labels"])


def test_what_is_masked(tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    rows = [row for row in dataset for _ in range(40)]
    counts: Counter[str] = Counter()
    for epoch in range(2):
        batch = replace(mask_tokens(tokenizer, 0.3, 0), epoch=epoch)(rows)
        plain = tokenizer.pad(rows, return_tensors="pt")["input_ids"]
        special = (
            (plain == tokenizer.cls_token_id) | (plain == tokenizer.sep_token_id) | (plain == tokenizer.pad_token_id)
        )
        hidden = batch["labels"] != IGNORED
        assert not (hidden & special).any()
        assert torch.equal(batch["labels"][hidden], plain[hidden])
        assert torch.equal(batch["input_ids"][~hidden], plain[~hidden])
        counts["tokens"] += int((~special).sum())
        counts["hidden"] += int(hidden.sum())
        counts["masked"] += int((batch["input_ids"][hidden] == tokenizer.mask_token_id).sum())
        counts["kept"] += int((batch["input_ids"][hidden] == plain[hidden]).sum())
    assert counts["hidden"] / counts["tokens"] == pytest.approx(0.3, abs=0.02)
    assert counts["masked"] / counts["hidden"] == pytest.approx(0.8, abs=0.03)
    assert counts["kept"] / counts["hidden"] == pytest.approx(0.1 + 0.1 / len(tokenizer), abs=0.03)


def test_at_least_one_token_is_masked(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [dict(tokenizer(text)) for text in ("the film", "was fine")]
    for seed in range(20):
        batch = mask_tokens(tokenizer, 1e-6, seed)(rows)
        assert (batch["labels"] != IGNORED).sum() == 1
    assert (mask_tokens(tokenizer, 0.5, 0)([dict(tokenizer(""))])["labels"] == IGNORED).all()


def test_a_tokenizer_without_a_mask_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "dense", mask_token=None)
    with pytest.raises(OptionError, match="no mask token"):
        mask_tokens(tokenizer, 0.15, 0)


# losses


def test_distillation_uses_real_tokens_only(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    """Both where the model is trained and where gradients for the pruning come from."""
    student, teacher = (load_model(folder / "dense", AutoModelForMaskedLM) for _ in range(2))
    with torch.no_grad():
        teacher.cls.predictions.transform.dense.weight.mul_(2)  # type: ignore[union-attr,operator]
    batch = mask_tokens(tokenizer, 0.3, 0)(list(dataset.select(range(6))))
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        p, q = ((model(**inputs).logits / 3).softmax(-1) for model in (teacher, student))
        divergence = (p * (p / q).log()).sum(-1)[batch["attention_mask"].bool()].mean()
        task = F.cross_entropy(student(**inputs).logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
        expected = 0.75 * 9 * divergence + 0.25 * task
        summed = distilled_loss(teacher, 3.0, 0.75)(student, batch, torch.Generator())
        trainer = DistillationTrainer.__new__(DistillationTrainer)
        trainer.distillation_weight, trainer.temperature, trainer.hidden_weight, trainer.teacher = (
            0.75,
            3.0,
            0.0,
            teacher,
        )
        trainer.head = head_of(student)
        trained = trainer.compute_loss(student, dict(batch))
    assert divergence > 1e-4
    assert float(summed) == pytest.approx(6 * float(expected), rel=1e-4)
    assert float(trained) == pytest.approx(float(expected), rel=1e-4)


def test_perplexity(folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    model = load_model(folder / "dense", AutoModelForMaskedLM)
    metrics = evaluate_masked_lm(model, dataset, tokenizer, batch_size=64, probability=0.3)
    rows = sorted(dataset, key=lambda row: len(row["input_ids"]))
    batch = mask_tokens(tokenizer, 0.3, 0)(rows)
    with torch.no_grad():
        outputs = model(**batch)
    hidden = batch["labels"] != IGNORED
    right = (outputs.logits.argmax(-1) == batch["labels"])[hidden].float().mean()
    assert metrics["perplexity"] == pytest.approx(float(outputs.loss.exp()), rel=1e-4)
    assert metrics["masked_accuracy"] == pytest.approx(100 * float(right))


# tied heads


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta"])
def test_tied_weights_stay_tied(name: str, tiny_batches: list[dict[str, Tensor]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(make_config(name)).eval()
    check_masked_lm(model)
    batches = [{**batch, "labels": batch["input_ids"]} for batch in tiny_batches]
    pruned, _ = prune(model, ObertConfig(Sparsity(0.7), fisher_damping=1e-4), batches)
    save_model(pruned, tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")
    assert not set(state) & set(pruned.all_tied_weights_keys)
    for load in (load_model, load_as_saved, AutoModelForMaskedLM.from_pretrained):
        again = load(tmp_path / "saved")
        assert again.get_output_embeddings().weight is again.get_input_embeddings().weight  # type: ignore[union-attr]
        for key, value in pruned.state_dict().items():
            assert torch.equal(again.state_dict()[key], value), key


def test_another_head_is_refused(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    classifier = load_model(folder / "classifier")
    with pytest.raises(ModelError, match="has no masked-language-model head"):
        train_gradually(classifier, RECIPE, dataset, tokenizer, work_dir=tmp_path)
    with pytest.raises(ModelError, match="no trained task head"):
        load_model(folder / "classifier", AutoModelForMaskedLM)


# training


class Killed:
    """Kills a run, once, at a step; and keeps the inputs of the model in each step."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int = -1) -> None:
        self.inputs: list[Tensor] = []
        step, collate = MaskCallback.on_optimizer_step, TokenMasking.torch_call

        def stop(callback: MaskCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step(callback, args, state, control, **kwargs)
            if state.global_step == at:
                raise KeyboardInterrupt

        def keep(collator: TokenMasking, examples: list[Any]) -> dict[str, Any]:
            batch = collate(collator, examples)
            self.inputs.append(batch["input_ids"].clone())
            return batch

        patch.setattr(MaskCallback, "on_optimizer_step", stop)
        patch.setattr(TokenMasking, "torch_call", keep)


@pytest.mark.parametrize("taught", [True, False])
def test_a_killed_run_goes_on_the_same(
    taught: bool,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the same hidden words, prunings and weights, though steps are made of several batches."""
    teacher = load_model(folder / "dense", AutoModelForMaskedLM) if taught else None
    models = [load_model(folder / "dense", AutoModelForMaskedLM) for _ in range(3)]

    def go(model: PreTrainedModel, name: str, resume: bool = False) -> None:
        set_seed(0)
        train_gradually(model, RECIPE, dataset, tokenizer, work_dir=tmp_path / name, teacher=teacher, resume=resume)

    with monkeypatch.context() as patch:
        run_through = Killed(patch)
        go(models[0], "whole")
        assert len({tuple(batch.flatten().tolist()) for batch in run_through.inputs}) == len(run_through.inputs)
    with monkeypatch.context() as patch:
        Killed(patch, at=5)
        with pytest.raises(KeyboardInterrupt):
            go(models[1], "killed")
    go(models[2], "killed", resume=True)
    for key, value in models[0].state_dict().items():
        assert torch.equal(models[2].state_dict()[key], value), key
    assert sparsity_of(masks_of(models[0])) == pytest.approx(0.8, abs=1e-4)
    assert not torch.equal(models[0].get_input_embeddings().weight, models[1].get_input_embeddings().weight)  # type: ignore[arg-type]


def test_training_lowers_the_perplexity(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    model = load_model(folder / "dense", AutoModelForMaskedLM)
    before = evaluate_masked_lm(model, dataset, tokenizer)["perplexity"]
    recipe = replace(RECIPE, epochs=6, learning_rate=LearningRate(3e-3, 1e-3), pruning=Pruning(0.5, 0.4, 0, 1, 0.5))
    train_gradually(model, recipe, dataset, tokenizer, work_dir=tmp_path)
    assert evaluate_masked_lm(model, dataset, tokenizer)["perplexity"] < 0.7 * before


def test_several_batches_make_the_same_step(
    folder: Path, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, tmp_path: Path
) -> None:
    """But for the share of each text: with a token hidden in each, batches of equal size have equal shares."""
    rows = dataset.select([0] * 32)
    recipe = replace(RECIPE, epochs=1, pruning=None, masked_lm=MaskedLanguageModeling(1e-9), micro_batch_size=None)
    parameters = []
    for micro_batch_size in (None, 4):
        model = load_model(folder / "dense", AutoModelForMaskedLM)
        for parameter in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            setattr(model.config, parameter, 0.0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        attach_sparse(model, 1)
        train_gradually(
            model,
            replace(recipe, micro_batch_size=micro_batch_size),
            rows,
            tokenizer,
            work_dir=tmp_path / str(micro_batch_size),
        )
        parameters.append({key: value.clone() for key, value in model.named_parameters()})
    for key, value in parameters[0].items():
        torch.testing.assert_close(parameters[1][key], value, rtol=1e-3, atol=2e-5, msg=key)


# the command line


def test_upstream_then_downstream(folder: Path, tmp_path: Path) -> None:
    upstream, task = tmp_path / "upstream", tmp_path / "task"
    options = ["--recipe", "upstream", "--text-file", folder / "texts.txt", "--max-length", "16"]
    result = succeed("gradual", folder / "dense", "--teacher", folder / "dense", "-o", upstream, *options, "--json")
    shown = json.loads(result.stdout)
    assert shown["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert set(shown["metrics"]) == {"perplexity", "masked_accuracy"}
    assert type(load_model(upstream)).__name__ == "BertForMaskedLM"
    assert "sparse" not in succeed("inspect", upstream).stdout
    transfer = ["--recipe", "sparse-transfer", "--epochs", "1", *files(folder)]
    for teacher in ([], ["--teacher", folder / "classifier"]):
        result = succeed("gradual", upstream, "-o", task, *transfer, *teacher, "--overwrite")
        assert "accuracy" in result.stdout
        task_masks = masks_of(load_model(task))
        assert all(torch.equal(mask, task_masks[key]) for key, mask in masks_of(load_model(upstream)).items())
        assert type(load_model(task)).__name__ == "BertForSequenceClassification"


def test_the_texts_of_a_task(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "epochs: 1\nbatch_size: 16\nmicro_batch_size: 8\nmasked_lm: {}\nlearning_rate: {start: 1e-4, end: 1e-5}\n"
        "pruning: {sparsity: 0.5, first_sparsity: 0.4, start: 0, end: 0.5, every: 0.5, gradients: 8}\n"
    )
    options = ["--recipe", recipe, *files(folder), "--max-train-samples", "32"]
    assert "perplexity" in succeed("gradual", folder / "dense", "-o", tmp_path / "out", *options).stdout


def test_bad_options_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    texts = ["--text-file", folder / "texts.txt"]
    for model, options, words in (
        ("dense", [], "Name the texts for masked language modeling"),
        ("dense", [*texts, *files(folder)], "either --text-file"),
        ("classifier", texts, "no trained task head"),
        ("dense", [*texts, "--teacher", folder / "classifier"], "no trained task head"),
    ):
        result = run("gradual", folder / model, "--recipe", "upstream", "-o", tmp_path / "no", *options)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert list(tmp_path.iterdir()) == []
