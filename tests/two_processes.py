"""What two processes do together, compared with what each of them does alone; ``torchrun`` starts this file.

With arguments it is the command line, of which the second process gets the arguments after ``--second``.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from bertsurgeon import Calibration, PruneConfig, TrainingConfig, calibrate, distributed, evaluate, prune, train
from bertsurgeon.calibration import collect_statistics, make_batches
from bertsurgeon.checkpoint import load_model, save_model
from bertsurgeon.errors import CheckpointError, OptionError
from bertsurgeon.prediction import predict
from bertsurgeon.tasks import TASK_TYPES, Task
from cli_helpers import tokenized_texts

TOLERANCE = 1e-5

TRAINING = TrainingConfig(epochs=2, batch_size=24, micro_batch_size=6, learning_rate=1e-3)
"""Three steps an epoch, with nothing left over, from rows that are 72."""


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Relative to the largest entry: means of opposite numbers may be as small as rounding."""
    return bool((first - second).abs().max() <= TOLERANCE * second.abs().max())


def weights(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def compare(folder: Path) -> None:
    dense, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    dataset = tokenized_texts(tokenizer, 72)
    unlabelled = dataset.remove_columns("labels")

    for data, options in (
        (dataset, {"gradients": True, "moments": True}),
        (dataset, {"gradients": True, "block_size": 8}),
        (unlabelled, {"gradients": False, "curvature": True, "moments": True, "token_weighting": 0.5}),
    ):
        batches = make_batches(data, tokenizer, 72, 8, 0)
        found = collect_statistics(dense, batches, **options)
        with distributed.disabled():
            wanted = collect_statistics(dense, batches, **options)
        assert (found.samples, found.tokens) == (wanted.samples, wanted.tokens) == (72, found.tokens)
        for name in ("squared_gradients", "block_fisher", "curvature"):
            assert getattr(found, name).keys() == getattr(wanted, name).keys()
            assert all(close(value, getattr(wanted, name)[key]) for key, value in getattr(found, name).items())
        for key, moments in found.moments.items():
            assert close(moments.covariance, wanted.moments[key].covariance)
            assert close(moments.mean, wanted.moments[key].mean)
        for key, parts in found.token_weights.items():
            assert close(torch.cat(parts), torch.cat(wanted.token_weights[key]))
        assert found.squared_gradients or found.block_fisher or found.curvature

    for config in (
        PruneConfig(sparsity=0.5, samples=72, batch_size=8),
        PruneConfig(flops=0.5, samples=72, batch_size=8, target="residual", structures=("removal", "groups")),
        PruneConfig(method="pgb", sparsity=0.5, samples=72, batch_size=8),
        PruneConfig(method="pgb", sparsity=0.5, samples=72, batch_size=8, compensation="independent"),
        PruneConfig(method="obert", sparsity=0.5, samples=72, batch_size=8),
        PruneConfig(
            method="obert", sparsity=0.5, samples=72, batch_size=8, update="greedy", memory_gb=1e-4, compensation="none"
        ),
    ):
        pruned, report = prune(dense, dataset, config, tokenizer)
        with distributed.disabled():
            wanted_model, wanted_report = prune(dense, dataset, config, tokenizer)
        assert report.plan == wanted_report.plan
        assert (report.samples, report.tokens) == (wanted_report.samples, wanted_report.tokens)
        if config.method == "obert":
            assert torch.equal(weights(pruned) == 0, weights(wanted_model) == 0)
            assert torch.equal(weights(pruned), weights(wanted_model)) or config.compensation != "none"
        # weights of low ranks may differ in their signs, as those of singular vectors do
        first, second = (predict(model, dataset, tokenizer, 24, "") for model in (pruned, wanted_model))
        assert (first - second).abs().max() <= 1e-4 * second.abs().max(), (config, first - second)

    student, _ = prune(dense, dataset, PruneConfig(method="pgb", sparsity=0.5, samples=64, batch_size=8), tokenizer)
    save_model(student, folder / "pruned", tokenizer)
    with distributed.temporary_folder() as work_dir:
        train(student, dataset, tokenizer, replace(TRAINING, keep_best=True, max_steps=2), work_dir / "best")
        student = load_model(folder / "pruned")
        train(student, dataset, tokenizer, TRAINING, work_dir / "recovered", teacher=dense)
    both = distributed.all_gather([weights(student)])
    assert torch.equal(both[0], both[1])
    task = Task("custom", ("accuracy",), ("0", "1"), type=TASK_TYPES["classification"])
    shared = evaluate(student, task, dataset, tokenizer, batch_size=5)
    with distributed.disabled():
        assert evaluate(student, task, dataset, tokenizer, batch_size=5) == shared

    calibrate(dense, dataset, PruneConfig(sparsity=0.5, batch_size=8), tokenizer).save(folder / "calibration")
    Calibration.load(folder / "calibration").check(dense)
    save_model(student, folder / "recovered", tokenizer)
    assert torch.equal(weights(load_model(folder / "recovered")), weights(student))

    wrong = {
        CheckpointError: lambda: save_model(student, folder / "recovered", tokenizer),
        OptionError: lambda: train(dense, dataset, tokenizer, TrainingConfig(batch_size=33), folder / "work"),
    }
    for error, call in wrong.items():
        with pytest.raises(error):
            call()
    with pytest.raises(OptionError, match="1 batches of calibration data for 2 processes"):
        prune(dense, dataset, PruneConfig(sparsity=0.5, samples=5), tokenizer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    if len(arguments) == 1:
        distributed.init()
        assert distributed.world_size() == 2
        compare(Path(arguments[0]))
        distributed.shutdown()
    else:
        from bertsurgeon.cli import main

        split = arguments.index("--second")
        distributed.init()
        sys.argv[1:] = arguments[split + 1 :] if distributed.rank() == 1 else arguments[:split]
        main()
