"""Several processes: the same result as one, one folder, one message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bertsurgeon import distributed, get_plan, train
from bertsurgeon.calibration import Moments
from bertsurgeon.checkpoint import load_model
from bertsurgeon.prediction import predict
from cli_helpers import files, tokenized_texts, write_data, write_model
from two_processes import TRAINING

HERE = Path(__file__).parent.parent


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Two processes, on one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((*sys.path, str(HERE)))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment, timeout=900
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "dense")
    write_data(tmp_path / "train.csv", 96, seed=1)
    write_data(tmp_path / "validation.csv", 40, seed=2)
    return tmp_path


def test_two_processes_find_what_one_finds(folder: Path) -> None:
    result = launch(HERE / "two_processes.py", folder / "dense")
    assert result.returncode == 0, result.stderr
    # what they trained together, trained by this one
    dense, tokenizer = load_model(folder / "dense"), AutoTokenizer.from_pretrained(folder / "dense")
    dataset = tokenized_texts(tokenizer, 72)
    start, shared, alone = (load_model(folder / "dense" / name) for name in ("pruned", "recovered", "pruned"))
    train(alone, TRAINING, dataset, tokenizer, work_dir=folder / "work", teacher=dense)
    before, expected, outputs = (predict(model, dataset, tokenizer, 24, "") for model in (start, alone, shared))
    moved = (expected - before).abs().max()
    assert (outputs - expected).abs().max() < 1e-3 * moved


def test_the_command_line_writes_one_folder_and_prints_one_result(folder: Path) -> None:
    options = [
        "--sparsity",
        "0.5",
        "--samples",
        "64",
        "--recover-epochs",
        "1",
        "--batch-size",
        "8",
        "--micro-batch-size",
        "2",
    ]
    command = ["-m", "bertsurgeon", "prune", folder / "dense", "-o", folder / "pruned", *files(folder), *options]
    result = launch(*command, "--json")
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed == json.loads((folder / "pruned" / "report.json").read_text())
    assert result.stderr.count("Compensating") <= 1
    plan = get_plan(load_model(folder / "pruned"))
    assert plan is not None
    assert plan.sparsity == pytest.approx(0.5, abs=0.02)
    assert {path.name for path in folder.iterdir()} == {"dense", "pruned", "train.csv", "validation.csv"}


def test_an_error_in_one_process_ends_both_with_one_sentence(folder: Path) -> None:
    command = ["prune", folder / "dense", "-o", folder / "pruned", "--sparsity", "0.5"]
    lost = ["--train-file", folder / "lost.csv", "--validation-file", folder / "lost.csv"]
    result = launch(HERE / "two_processes.py", *command, *files(folder), "--second", *command, *lost)
    assert result.returncode != 0
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert "lost.csv" in result.stderr
    assert not (folder / "pruned").exists()


def test_parts_of_moments_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes' moments, one after the other, each with what the other one is about to add."""
    generator = torch.Generator().manual_seed(0)
    x, pruned, drift = (torch.randn(90, width, generator=generator) + 5 for width in (7, 4, 3))
    weights = torch.rand(90, generator=generator)

    def moments(part: slice) -> Moments:
        result = Moments(7, True, 4, 3)
        for chunk in torch.arange(90)[part].split(20):
            result.update(x[chunk], pruned[chunk], drift[chunk], weights[chunk])
        return result

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    recorded: list[torch.Tensor] = []
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: recorded.append(tensor.clone()))
    moments(slice(30, 90)).reduce()
    origins = [recorded[0] + moments(slice(0, 30))._origin / 2, recorded[1] + moments(slice(0, 30))._pruned_origin / 2]
    # the second process again, now with the mean of both origins, and then the first one
    passes: list[list[torch.Tensor]] = []
    for part, others in ((slice(30, 90), None), (slice(0, 30), 0)):
        mine: list[torch.Tensor] = []

        def add(tensor: torch.Tensor, mine: list[torch.Tensor] = mine, others: int | None = others) -> None:
            number = len(mine)
            mine.append(tensor)
            if number < 2:
                tensor.copy_(origins[number])
            elif others is not None:
                tensor += passes[others][number]

        monkeypatch.setattr(distributed, "all_reduce", add)
        result = moments(part)
        result.reduce()
        passes.append(mine)
    expected = moments(slice(0, 90))
    assert result.count == pytest.approx(expected.count)
    for name in ("mean", "pruned_mean", "covariance", "cross_covariance", "drift_mean", "drift_covariance"):
        assert torch.allclose(getattr(result, name), getattr(expected, name), rtol=1e-5, atol=1e-6), name


def test_a_single_process_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if a launcher started it."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.init()
    assert (distributed.launched_world_size(), distributed.world_size(), distributed.rank()) == (1, 1, 0)
    assert distributed.is_main()
    assert distributed.shard(range(5)) == distributed.all_gather(range(5)) == [0, 1, 2, 3, 4]
    assert distributed.run_on_main(lambda: 3) == 3
    assert distributed.any_process(True)
    assert distributed.is_first_to_fail()
    with distributed.temporary_folder() as work_dir:
        assert work_dir.is_dir()
    assert not work_dir.exists()
    distributed.shutdown()
    assert not torch.distributed.is_initialized()
