"""Every method at every share on five tasks: one-shot, and after the same recovery.

    python experiments/study.py --data-dir ../shared/data/glue --tasks sst2 cola --seeds 0
    python experiments/study.py --data-dir ../shared/data/glue --recover
    python experiments/study.py --data-dir ../shared/data/glue --again

The dense models are those of ``experiments/finetune.py`` (``runs/<task>-<seed>``), for SST-2 that of
``docs/results.md`` (``runs/minilm-sst2``). ``--again`` is for dense models that were trained a second time; on another
machine the same command gives other weights. It measures only these dense models and recovered rows, whose names start
with ``again/``.
"""

import shutil
import time
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, set_seed

from bertsurgeon import TrainingConfig, train
from bertsurgeon.architectures import Encoder
from bertsurgeon.benchmark import count_flops, measure_sizes
from bertsurgeon.checkpoint import attach_plan
from bertsurgeon.compensation import apply_plan
from bertsurgeon.plan import ROLES, Dropped, LayerPlan, ModelPlan
from lib.common import make_parser, parse_arguments
from lib.models import StudyModel, load_study_model
from lib.results_store import RUNS, ResultsStore
from lib.study_methods import METHODS, SHARES

TASKS = ("sst2", "cola", "mrpc", "rte", "stsb")
STEPS = 200
"""Steps of recovery with 32 texts each, the same for every method and task: one minute to several."""
LEARNING_RATE = 5e-5
"""Learning rate of recovery; the names of rows with another one end in it."""


def describe(dense: StudyModel, model: PreTrainedModel, seconds: float) -> dict[str, Any]:
    return {
        "metrics": dense.score(model),
        "kept_share": measure_sizes(model).encoder_weights / measure_sizes(dense.model).encoder_weights,
        "flops_share": count_flops(model, 1, 128) / count_flops(dense.model, 1, 128),
        "pruning_seconds": seconds,
    }


def one_shot(dense: StudyModel, method: str, share: float) -> dict[str, Any]:
    start = time.perf_counter()
    model = METHODS[method](dense, share)
    return describe(dense, model, time.perf_counter() - start)


def recover(dense: StudyModel, method: str, share: float, options: TrainingConfig, work_dir: Path) -> dict[str, Any]:
    model = METHODS[method](dense, share)
    count = min(len(dense.train), STEPS * options.batch_size)
    texts = dense.train.shuffle(seed=dense.seed).select(range(count))
    train(model, options, texts, dense.tokenizer, teacher=dense.model, work_dir=work_dir, resume=True)
    shutil.rmtree(work_dir)
    return describe(dense, model, 0.0)


def floor(dense: StudyModel, options: TrainingConfig, work_dir: Path) -> dict[str, Any]:
    """Scores a model without any layer; pooler and classifier are trained on the embeddings."""
    encoder = Encoder(dense.model)
    empty = LayerPlan.build(encoder.shapes[0], dict.fromkeys(ROLES, Dropped()))
    plan = ModelPlan(encoder.architecture.name, (empty,) * len(encoder.layers))
    model = apply_plan(dense.model, plan, "none")
    attach_plan(model, plan)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    train(model, options, dense.train, dense.tokenizer, work_dir=work_dir, resume=True)
    return {"metrics": dense.score(model), "kept_share": 0.0}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--seeds", nargs="*", type=int, default=(0,))
    parser.add_argument("--methods", nargs="*", default=tuple(METHODS))
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--recover", action="store_true", help="also recover each of them")
    parser.add_argument("--again", action="store_true", help="recovered rows only, from other dense models")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="of recovery")
    arguments = parse_arguments(parser)
    rate = arguments.learning_rate
    recovered = "recovered" if rate == LEARNING_RATE else f"recovered-{rate:g}"
    results = ResultsStore("study", arguments)
    for task in arguments.tasks:
        for seed in arguments.seeds if task != "sst2" else (0,):
            set_seed(seed)
            dense = load_study_model(task, seed, arguments.data_dir)
            prefix = f"again/{task}-{seed}" if arguments.again else f"{task}-{seed}"
            work_dir = RUNS / "study" / prefix
            run_dense = partial(lambda d: {"metrics": d.score(d.model), "kept_share": 1.0}, dense)
            results.run(f"{prefix}/dense", run_dense, {"task": task}, seed=seed)
            for share, method in product(arguments.shares, arguments.methods):
                name, configuration = f"{method}-{share:g}", {"task": task, "method": method, "share": share}
                if not arguments.again:
                    results.run(f"{prefix}/{name}", partial(one_shot, dense, method, share), configuration, seed=seed)
                if arguments.recover or arguments.again:
                    options = TrainingConfig(max_steps=STEPS, learning_rate=rate, bf16=True, seed=dense.seed)
                    name = f"{name}-{recovered}"
                    results.run(
                        f"{prefix}/{name}",
                        partial(recover, dense, method, share, options, work_dir / name),
                        configuration | {"training": asdict(options)},
                        seed=seed,
                    )
            options = TrainingConfig(epochs=3, learning_rate=1e-3, seed=dense.seed)
            configuration = {"task": task, "training": asdict(options)}
            run_floor = partial(floor, dense, options, work_dir / "floor")
            results.run(f"{prefix}/floor", run_floor, configuration, seed=seed)


if __name__ == "__main__":
    main()
