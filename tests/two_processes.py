"""What two processes do together, compared with what each of them does alone; ``torchrun`` starts this file.

With arguments it is the command line, of which the second process gets the arguments after ``--second``.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from bertsurgeon import (
    AutoConfig,
    Calibration,
    Flops,
    ObertConfig,
    PgbConfig,
    Sparsity,
    TrainingConfig,
    calibrate,
    distributed,
    evaluate,
    prune,
    train,
)
from bertsurgeon.calibration import collect_statistics, make_batches
from bertsurgeon.checkpoint import load_model, lock_outputs, save_model
from bertsurgeon.errors import CheckpointError, OptionError
from bertsurgeon.prediction import predict
from bertsurgeon.storage import try_lock
from bertsurgeon.tasks import TASK_TYPES, Task
from cli_helpers import tokenized_texts

TOLERANCE = 1e-5

TRAINING = TrainingConfig(epochs=2, batch_size=24, micro_batch_size=6, learning_rate=1e-3)
"""Three complete steps an epoch, from 72 rows."""


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Relative to the largest entry: means of opposite numbers may be as small as rounding."""
    return bool((first - second).abs().max() <= TOLERANCE * second.abs().max())


def weights(model: PreTrainedModel) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def fail() -> None:
    raise ValueError("no room")


def check_collectives() -> None:
    rank = distributed.rank()
    items = list(range(5))
    assert distributed.shard(items) == items[rank::2]
    assert distributed.all_gather(distributed.shard(items)) == items
    assert distributed.run_on_main(distributed.rank) == 0
    with pytest.raises(ValueError if rank == 0 else RuntimeError, match="no room"):
        distributed.run_on_main(fail)
    total = torch.tensor([1.0, rank])
    distributed.all_reduce(total)
    assert total.tolist() == [2, 1]
    assert distributed.any_process(rank == 1)
    with distributed.disabled():
        assert (distributed.world_size(), distributed.all_gather([rank])) == (1, [rank])
        assert not distributed.any_process(False)


def check_locks(folder: Path) -> None:
    """The first process locks for both, and a lock that another process holds refuses both, in one sentence."""
    file = folder / ".locked.bertsurgeon-lock"
    with lock_outputs(folder / "locked"), lock_outputs(folder / "locked"):
        assert all(distributed.all_gather([file.exists()]))
    distributed.all_gather([None])  # the first process has released it
    assert not file.exists()
    distributed.all_gather([None])
    held = try_lock(file) if distributed.rank() == 1 else None
    distributed.all_gather([None])  # the second process holds it
    with pytest.raises(CheckpointError, match="locked"), lock_outputs(folder / "locked"):
        pass
    if held is not None:
        held.release()


def compare(folder: Path) -> None:
    dense, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    dataset = tokenized_texts(tokenizer, 72)
    unlabeled = dataset.remove_columns("labels")

    for data, options in (
        (dataset, {"gradients": True, "moments": True}),
        (dataset, {"gradients": True, "block_size": 8}),
        (unlabeled, {"gradients": False, "curvature": True, "moments": True, "token_weighting": 0.5}),
    ):
        batches = make_batches(data, tokenizer, 72, 8, 0)
        statistics = collect_statistics(dense, batches, **options)
        with distributed.disabled():
            expected = collect_statistics(dense, batches, **options)
        assert (statistics.samples, statistics.tokens) == (expected.samples, expected.tokens) == (72, statistics.tokens)
        for name in ("squared_gradients", "block_fisher", "curvature"):
            assert getattr(statistics, name).keys() == getattr(expected, name).keys()
            assert all(close(value, getattr(expected, name)[key]) for key, value in getattr(statistics, name).items())
        for key, moments in statistics.moments.items():
            assert close(moments.covariance, expected.moments[key].covariance)
            assert close(moments.mean, expected.moments[key].mean)
        for key, parts in statistics.token_weights.items():
            assert close(torch.cat(parts), torch.cat(expected.token_weights[key]))
        assert statistics.squared_gradients or statistics.block_fisher or statistics.curvature

    for config in (
        AutoConfig(Sparsity(0.5), samples=72, batch_size=8),
        AutoConfig(Flops(0.5), samples=72, batch_size=8, target="residual", structures=("removal", "groups")),
        PgbConfig(Sparsity(0.5), samples=72, batch_size=8),
        PgbConfig(Sparsity(0.5), samples=72, batch_size=8, compensation="independent"),
        ObertConfig(Sparsity(0.5), samples=72, batch_size=8),
        ObertConfig(Sparsity(0.5), samples=72, batch_size=8, update="greedy", memory_gb=1e-4, compensation="none"),
    ):
        pruned, report = prune(dense, config, dataset, tokenizer)
        with distributed.disabled():
            single_model, single_report = prune(dense, config, dataset, tokenizer)
        assert report.plan == single_report.plan
        assert (report.samples, report.tokens) == (single_report.samples, single_report.tokens)
        if config.method == "obert":
            assert torch.equal(weights(pruned) == 0, weights(single_model) == 0)
            assert torch.equal(weights(pruned), weights(single_model)) or config.compensation != "none"
        # weights of low ranks may differ in their signs, as those of singular vectors do
        first, second = (predict(model, dataset, tokenizer, 24, "") for model in (pruned, single_model))
        assert (first - second).abs().max() <= 1e-4 * second.abs().max(), (config, first - second)

    task = Task("custom", ("accuracy",), ("0", "1"), type=TASK_TYPES["classification"])
    student, _ = prune(dense, PgbConfig(Sparsity(0.5), samples=64, batch_size=8), dataset, tokenizer)
    save_model(student, folder / "pruned", tokenizer)
    with distributed.temporary_folder() as work_dir:
        config = replace(TRAINING, keep_best=True, max_steps=2)
        report = train(student, config, dataset, tokenizer, validation=dataset, task=task, work_dir=work_dir / "best")
        assert len(set(distributed.all_gather([report]))) == 1
        best = distributed.all_gather([weights(student)])
        assert torch.equal(best[0], best[1])
        student = load_model(folder / "pruned")
        train(student, TRAINING, dataset, tokenizer, work_dir=work_dir / "recovered", teacher=dense)
    both = distributed.all_gather([weights(student)])
    assert torch.equal(both[0], both[1])
    shared = evaluate(student, task, dataset, tokenizer, batch_size=5)
    with distributed.disabled():
        assert evaluate(student, task, dataset, tokenizer, batch_size=5) == shared

    config = AutoConfig(Sparsity(0.5), batch_size=8)
    calibrate(dense, config, dataset, tokenizer).save(folder / "calibration")
    Calibration.load(folder / "calibration").check(dense, config)
    save_model(student, folder / "recovered", tokenizer)
    assert torch.equal(weights(load_model(folder / "recovered")), weights(student))

    wrong = {
        CheckpointError: lambda: save_model(student, folder / "recovered", tokenizer),
        OptionError: lambda: train(dense, TrainingConfig(batch_size=33), dataset, tokenizer, work_dir=folder / "work"),
    }
    for error, call in wrong.items():
        with pytest.raises(error):
            call()
    with pytest.raises(OptionError, match="1 batches of calibration data for 2 processes"):
        prune(dense, AutoConfig(Sparsity(0.5), samples=5), dataset, tokenizer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    if len(arguments) == 1:
        distributed.init()
        assert distributed.world_size() == 2
        check_collectives()
        check_locks(Path(arguments[0]))
        compare(Path(arguments[0]))
        distributed.shutdown()
    else:
        from bertsurgeon.cli import main

        split = arguments.index("--second")
        distributed.init()
        sys.argv[1:] = arguments[split + 1 :] if distributed.rank() == 1 else arguments[:split]
        main()
