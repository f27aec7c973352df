"""Every method at every share on five tasks: one-shot, and after the same recovery.

    python experiments/study.py --data-dir ../shared/data/glue --tasks sst2 cola --seeds 0
    python experiments/study.py --data-dir ../shared/data/glue --recover
    python experiments/study.py --data-dir ../shared/data/glue --again

The dense models are those of ``experiments/finetune.py`` (``runs/<task>-<seed>``), for SST-2 that of
``docs/results.md`` (``runs/minilm-sst2``). Finished rows are kept as JSON and not run again. ``--again`` is for dense
models that were trained a second time, which on another machine gives others by the same command: it makes recovered
rows only, beside those of its own dense models, in ``study-again``.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from bertsurgeon import (
    Calibration,
    PruneConfig,
    TrainingOptions,
    calibrate,
    drop_layers,
    evaluate,
    load_model,
    progress,
    prune,
    train,
)
from bertsurgeon.architectures import get_architecture
from bertsurgeon.benchmark import count_flops, measure_sizes
from bertsurgeon.calibration import make_batches
from bertsurgeon.checkpoint import attach_plan, load_tokenizer
from bertsurgeon.cli.app import quieten_libraries
from bertsurgeon.compensation import apply_plan
from bertsurgeon.plan import ROLES, Dropped, LayerPlan, ModelPlan
from bertsurgeon.tasks import TaskData, load_task, tokenize
from common import Bench, cached, make_bench
from torch_pruning_peer import prune_with_torch_pruning

RUNS = Path(__file__).parent.parent / "runs"
SHARES = (0.5, 0.25, 0.12, 0.06)
TASKS = ("sst2", "cola", "mrpc", "rte", "stsb")
STEPS = 200
"""Of recovery, with 32 texts each, the same for every method and task: one minute to some."""
LEARNING_RATE = 5e-5
"""Of recovery, the same as well; rows at another one say so in their names."""


@dataclass
class Subject:
    """A dense model with its task."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    train: Dataset
    validation: Dataset
    seed: int
    folder: Path
    data_dir: Path
    _calibration: Calibration | None = None
    _bench: Bench | None = None

    @property
    def calibration(self) -> Calibration:
        """Made once, when first needed, without labels."""
        if self._calibration is None:
            config = self.config(0.5, structures=("removal", "low_rank", "groups"))
            self._calibration = calibrate(self.model, self.train, config, self.tokenizer)
        return self._calibration

    @property
    def bench(self) -> Bench:
        """What ``pgb`` has to know, gathered once, with labels."""
        if self._bench is None:
            self._bench = make_bench(str(self.folder), self.data.task.name, self.data_dir, 1024, self.seed)
        return self._bench

    def config(self, share: float, **options: Any) -> PruneConfig:
        """Options that keep this share of the encoder."""
        return PruneConfig(sparsity=1 - share, seed=self.seed, **options)

    def score(self, model: PreTrainedModel) -> dict[str, float]:
        """The task's metrics."""
        return evaluate(model, self.validation, self.tokenizer, self.data.task)


def load(task: str, seed: int, data_dir: Path) -> Subject:
    folder = RUNS / ("minilm-sst2" if task == "sst2" else f"{task}-{seed}")
    model, tokenizer, data = load_model(folder), load_tokenizer(folder), load_task(task, data_dir)
    parts = tokenize(data.train, tokenizer), tokenize(data.validation, tokenizer)
    return Subject(model, tokenizer, data, *parts, seed, folder, data_dir)


def auto(**options: Any) -> Callable[[Subject, float], PreTrainedModel]:
    return lambda s, share: prune(s.model, s.calibration, s.config(share, **options), s.tokenizer)[0]


def pgb(**options: Any) -> Callable[[Subject, float], PreTrainedModel]:
    return lambda s, share: s.bench.prune(s.config(share, method="pgb", **options))


def first_layers(subject: Subject, share: float) -> PreTrainedModel:
    """The first layers, as many as the share allows, at least one; nothing is refitted."""
    layers = get_architecture(subject.model.config.model_type).layers(subject.model)
    return drop_layers(subject.model, max(1, int(share * len(layers))), "first")[0]


def torch_pruning(subject: Subject, share: float) -> PreTrainedModel:
    batch = make_batches(subject.train, subject.tokenizer, 32, 32, subject.seed)[0]
    return prune_with_torch_pruning(subject.model, dict(batch), share)  # type: ignore[return-value,arg-type]


METHODS: dict[str, Callable[[Subject, float], PreTrainedModel]] = {
    "auto": auto(),
    "removal": auto(structures=("removal",)),
    "low_rank": auto(structures=("low_rank",)),
    "groups": auto(structures=("groups",)),
    "auto-groups": auto(structures=("removal", "low_rank", "groups")),
    "pgb": pgb(compensation="independent"),
    "pgb-sequential": pgb(),
    "magnitude": pgb(importance="magnitude"),
    "torch-pruning": torch_pruning,
    "first-layers": first_layers,
}


def describe(subject: Subject, model: PreTrainedModel, seconds: float) -> dict[str, Any]:
    return {
        "metrics": subject.score(model),
        "kept_share": measure_sizes(model).encoder_weights / measure_sizes(subject.model).encoder_weights,
        "flops_share": count_flops(model, 1, 128) / count_flops(subject.model, 1, 128),
        "pruning_seconds": seconds,
    }


def one_shot(subject: Subject, method: str, share: float) -> dict[str, Any]:
    start = time.perf_counter()
    model = METHODS[method](subject, share)
    return describe(subject, model, time.perf_counter() - start)


def recover(subject: Subject, model: PreTrainedModel, work_dir: Path, rate: float) -> dict[str, Any]:
    options = TrainingOptions(max_steps=STEPS, learning_rate=rate, keep_best=True, bf16=True, seed=subject.seed)
    enough = min(len(subject.train), STEPS * options.batch_size + 1000)
    texts = subject.train.shuffle(seed=subject.seed).select(range(enough))
    train(model, texts, subject.tokenizer, options, work_dir, teacher=subject.model, resume=True)
    shutil.rmtree(work_dir)
    return {"training": asdict(options), **describe(subject, model, 0.0)}


def floor(subject: Subject, work_dir: Path) -> dict[str, Any]:
    """No layer at all; pooler and classifier are trained on the embeddings."""
    architecture = get_architecture(subject.model.config.model_type)
    empty = LayerPlan.build(architecture.shapes(subject.model)[0], dict.fromkeys(ROLES, Dropped()))
    plan = ModelPlan(architecture.name, tuple(empty for _ in architecture.shapes(subject.model)))
    model = apply_plan(subject.model, architecture, plan, "none")
    attach_plan(model, plan)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    options = TrainingOptions(epochs=3, learning_rate=1e-3, seed=subject.seed)
    train(model, subject.train, subject.tokenizer, options, work_dir, resume=True)
    return {"training": asdict(options), "metrics": subject.score(model), "kept_share": 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0,))
    parser.add_argument("--methods", nargs="*", default=tuple(METHODS))
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--recover", action="store_true", help="also recover each of them")
    parser.add_argument("--again", action="store_true", help="recovered rows only, from other dense models")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="of recovery")
    arguments = parser.parse_args()
    rate = arguments.learning_rate
    recovered = "recovered" if rate == LEARNING_RATE else f"recovered-{rate:g}"
    quieten_libraries()
    progress.show()
    for task in arguments.tasks:
        for seed in arguments.seeds if task != "sst2" else (0,):
            set_seed(seed)
            subject = load(task, seed, arguments.data_dir)
            place = f"{'study-again' if arguments.again else 'study'}/{task}-{seed}"
            cached(f"{place}/dense", lambda s=subject: {"metrics": s.score(s.model), "kept_share": 1.0})
            for share in arguments.shares:
                for method in arguments.methods:
                    name = f"{place}/{method}-{share:g}"
                    if not arguments.again:
                        cached(name, lambda s=subject, m=method, k=share: one_shot(s, m, k))
                    if arguments.recover or arguments.again:
                        name = f"{name}-{recovered}"
                        cached(
                            name,
                            lambda s=subject, m=method, k=share, n=name: recover(s, METHODS[m](s, k), RUNS / n, rate),
                        )
            cached(f"{place}/floor", lambda s=subject, p=place: floor(s, RUNS / p / "floor"))


if __name__ == "__main__":
    main()
