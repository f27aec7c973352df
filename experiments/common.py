"""What the experiments share: data, statistics gathered once, one pruned model scored, results kept as JSON."""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import PruneConfig, evaluate, load_model, progress, prune
from bertsurgeon.architectures import Architecture, get_architecture
from bertsurgeon.benchmark import compare_latency, environment
from bertsurgeon.calibration import Batch, MatrixKey, Statistics, collect_statistics, make_batches
from bertsurgeon.checkpoint import attach_plan, load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.compensation import apply_plan
from bertsurgeon.importance import score_matrices
from bertsurgeon.prediction import predict
from bertsurgeon.pruning import make_plan
from bertsurgeon.tasks import TaskData, load_task, tokenize

RESULTS = Path(__file__).parent / "results"


@dataclass
class Bench:
    """A fine-tuned model with its task and what calibration found out about it."""

    model: PreTrainedModel
    architecture: Architecture
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    train: Dataset
    validation: Dataset
    batches: list[Batch]
    statistics: Statistics
    scores: dict[MatrixKey, Tensor]
    seed: int

    def score(self, model: PreTrainedModel) -> dict[str, float]:
        """The task's metrics on the validation data."""
        return evaluate(model, self.validation, self.tokenizer, self.data.task)

    def prune(self, config: PruneConfig) -> PreTrainedModel:
        """Prunes with the statistics at hand."""
        scores = self.scores
        if config.importance == "magnitude":
            scores = score_matrices(self.model, self.architecture, self.statistics, "magnitude", 0.0)
        plan = make_plan(self.architecture, scores, replace(config, seed=self.seed))
        pruned = apply_plan(
            self.model,
            self.architecture,
            plan,
            config.compensation,
            batches=self.batches,
            moments=self.statistics.moments,
            damping=config.damping,
        )
        attach_plan(pruned, plan)
        return pruned


def make_bench(model: str, task: str, data_dir: Path | None, samples: int, seed: int) -> Bench:
    """Loads everything and gathers gradients and moments in one pass."""
    set_seed(seed)
    network = load_model(model)
    architecture = get_architecture(network.config.model_type)
    tokenizer = load_tokenizer(model)
    data = load_task(task, data_dir, seed)
    train, validation = (tokenize(part, tokenizer) for part in (data.train, data.validation))
    batches = make_batches(train, tokenizer, samples, 32, seed)
    statistics = collect_statistics(network, architecture, batches, moments=True, seed=seed)
    scores = score_matrices(network, architecture, statistics, "fisher", 0.0)
    return Bench(network, architecture, tokenizer, data, train, validation, batches, statistics, scores, seed)


PROBE = 512
"""Training texts that nothing is calibrated or trained on."""


class Probe:
    """A fine-tuned model, texts to ask it about, and all other training texts.

    The divergence KL(dense ‖ pruned) of the predictions is far less noisy than a metric on a small development set.
    """

    def __init__(self, model: str, task: str, data_dir: Path | None, seed: int) -> None:
        self.model, self.tokenizer = load_model(model), load_tokenizer(model)
        self.data = load_task(task, data_dir, seed)
        shuffled = tokenize(self.data.train, self.tokenizer).shuffle(seed=seed)
        self.texts, self.rest = shuffled.select(range(PROBE)), shuffled.select(range(PROBE, len(shuffled)))
        self.validation = tokenize(self.data.validation, self.tokenizer)
        self._wanted = self._ask(self.model)

    def divergence(self, model: PreTrainedModel) -> float:
        """KL(dense ‖ model) on the probe, mean over its texts."""
        return float(F.kl_div(self._ask(model), self._wanted, reduction="batchmean", log_target=True))

    def score(self, model: PreTrainedModel) -> dict[str, float]:
        """The task's metrics on the validation data."""
        return evaluate(model, self.validation, self.tokenizer, self.data.task)

    def one_shot(self, config: PruneConfig) -> dict[str, Any]:
        """Prunes by the other texts, and says what that costs."""
        pruned, report = prune(self.model, self.rest, config, self.tokenizer)
        return {
            "config": config.to_dict(),
            "metrics": self.score(pruned),
            "divergence": self.divergence(pruned),
            "report": report.to_dict(),
        }

    def _ask(self, model: PreTrainedModel) -> Tensor:
        return predict(model, self.texts, self.tokenizer, 64, "Asking").log_softmax(-1)


def speedups(dense: Any, model: Any, shapes: Iterable[tuple[int, int]]) -> dict[str, float]:
    """How many times as fast as the dense model, by shape (``8x128``: texts and tokens); the two take turns."""
    found = {}
    for shape in shapes:
        latency = compare_latency({"dense": dense, "this": model}, *shape, runs=20)
        found[f"{shape[0]}x{shape[1]}"] = latency["dense"].p50_ms / latency["this"].p50_ms
    return found


def cached(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Runs ``make`` unless its result is there already; adds the time it took and the environment."""
    path = RESULTS / f"{name}.json"
    if path.is_file():
        progress.note(f"{name}: there already")
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result
    start = time.perf_counter()
    result = make()
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["environment"] = environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    progress.note(f"{name}: {result}")
    return result


def parse_arguments(description: str | None) -> argparse.Namespace:
    """The options of every experiment."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="folder of the fine-tuned dense model")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    torch.manual_seed(arguments.seed)
    return arguments
