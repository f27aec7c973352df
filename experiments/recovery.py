"""Learning rates and losses of recovery after ``auto``, whose models are good before it.

    python experiments/recovery.py --model runs/cola-0 --task cola --data-dir ../shared/data/glue

Every run has 200 steps of 32 sentences. Besides the metric, each row has the divergence KL(dense ‖ recovered) of the
predictions on 512 training texts that are used for neither calibration nor recovery.
"""

from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import set_seed

from bertsurgeon import AutoConfig, CalibrationConfig, Sparsity, TrainingConfig, calibrate, prune, train
from lib.common import make_task_parser, parse_arguments
from lib.models import Probe
from lib.results_store import ResultsStore

STEPS = 200


@dataclass(frozen=True)
class Grid:
    """Options that are combined for one share of kept weights.

    Attributes:
        rates: Learning rates.
        hidden: Weights of the teacher's hidden states.
        dropout: Whether dropout is active.
        distillation_weight: Weights of the teacher's outputs, against the labels.
    """

    rates: tuple[float, ...] = (1e-5, 2e-5, 5e-5, 1e-4)
    hidden: tuple[float, ...] = (0.0,)
    dropout: tuple[bool, ...] = (False, True)
    distillation_weight: tuple[float, ...] = (0.9,)


TEACHER_ONLY = Grid((2e-5, 5e-5), dropout=(False,), distillation_weight=(1.0,))
GRIDS = (
    (0.12, Grid((2e-5, 5e-5, 1e-4), (0.0, 1.0))),
    (0.25, Grid()),
    (0.5, Grid(dropout=(False,))),
    (0.25, TEACHER_ONLY),
    (0.5, TEACHER_ONLY),
)
"""Shares that are kept, and their options."""


def main() -> None:
    arguments = parse_arguments(make_task_parser(__doc__))
    results = ResultsStore("recovery", arguments)
    probe = Probe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)
    calibration = calibrate(probe.model, CalibrationConfig(), probe.train, probe.tokenizer)

    def measure(share: float, options: TrainingConfig | None) -> dict[str, Any]:
        set_seed(arguments.seed)
        pruned, _ = prune(probe.model, AutoConfig(Sparsity(1 - share)), calibration, probe.tokenizer)
        result: dict[str, Any] = {}
        if options is not None:
            with TemporaryDirectory() as folder:
                train(pruned, options, probe.train, probe.tokenizer, teacher=probe.model, work_dir=Path(folder))
        result["metrics"] = probe.score(pruned)
        result["divergence"] = probe.divergence(pruned)
        return result

    for share, grid in GRIDS:
        configuration: dict[str, Any] = {"task": arguments.task, "share": share}
        results.run(f"{arguments.task}/start-{share:g}", partial(measure, share, None), configuration)
        for weight, hidden, dropout, rate in product(grid.distillation_weight, grid.hidden, grid.dropout, grid.rates):
            options = TrainingConfig(
                max_steps=STEPS,
                learning_rate=rate,
                distillation_weight=weight,
                hidden_weight=hidden,
                bf16=True,
                dropout=dropout,
                seed=arguments.seed,
            )
            name = f"{arguments.task}/rate-{rate:g}-hidden-{hidden:g}-dropout-{dropout:d}"
            name += "" if weight == 0.9 else f"-hardness-{weight:g}"  # the option's former name
            configuration = {"task": arguments.task, "share": share, "training": asdict(options)}
            results.run(f"{name}-{share:g}", partial(measure, share, options), configuration)


if __name__ == "__main__":
    main()
