r"""One-shot `auto` on a base-size encoder with one choice changed at a time: what is lost at 12 %, and what helps.

    python experiments/base_choices.py --data-dir ../shared/data/glue --tasks cola

Each row has the task's metric and the divergence KL(dense ‖ pruned) of the predictions on the validation texts, which
is far less noisy. `two-passes` prunes to a quarter first, measures everything again in the zero-filled twin of that
model, and prunes it further. Rows are `TASK/CHOICE-SHARE`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from base_study import BaseTask, add_options, open_task
from bertsurgeon import AutoConfig, Calibration, CalibrationConfig, Sparsity, calibrate, prune, to_dense
from bertsurgeon.prediction import predict
from lib.common import make_parser, parse_arguments
from lib.results_store import ResultsStore

CALIBRATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "fisher-temperature-1": {"fisher_temperature": 1.0},
    "fisher-temperature-4": {"fisher_temperature": 4.0},
    "bf16": {"calibration_precision": "bf16"},
    "samples-4096": {"samples": 4096},
    "damping-1e-2": {"damping": 1e-2},
    "token-weighting-0.9": {"token_weighting": 0.9},
    "samples-512": {"samples": 512},
}
FIRST_SHARE = 0.25
"""Kept after the first of two passes."""
SHARES = (0.12, 0.25)


def divergence(task: BaseTask, model: PreTrainedModel) -> float:
    """Returns the mean KL(dense ‖ model) of the predictions on the validation texts."""
    dense, pruned = (predict(one, task.validation, task.tokenizer).log_softmax(-1) for one in (task.dense, model))
    mean: Tensor = F.kl_div(pruned, dense, log_target=True, reduction="batchmean")
    return float(mean)


@dataclass
class Choice:
    """Options of the calibration, which is measured when the first row needs it.

    Attributes:
        task: The task.
        options: The options that are not the default.
    """

    task: BaseTask
    options: dict[str, Any]

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration that all shares use."""
        config = CalibrationConfig(seed=self.task.seed, **self.options)
        return calibrate(self.task.dense, config, self.task.training, self.task.tokenizer)

    def prune(self, share: float, **more: Any) -> PreTrainedModel:
        """Returns the model with this share of the encoder."""
        config = AutoConfig(Sparsity(1 - share), seed=self.task.seed, **self.options, **more)
        return prune(self.task.dense, config, self.calibration).model

    def prune_twice(self, share: float) -> PreTrainedModel:
        """Returns the model with this share of the encoder that is pruned in two passes."""
        twin = to_dense(self.prune(FIRST_SHARE))
        again = calibrate(twin, CalibrationConfig(seed=self.task.seed), self.task.training, self.task.tokenizer)
        return prune(twin, AutoConfig(Sparsity(1 - share), seed=self.task.seed), again).model


def measure(task: BaseTask, make: Callable[[], PreTrainedModel]) -> dict[str, Any]:
    start = time.perf_counter()
    model = make()
    seconds = time.perf_counter() - start
    return {**task.score(model), "divergence": divergence(task, model), "seconds": seconds}


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--shares", nargs="*", type=float, default=SHARES)
    parser.add_argument("--choices", nargs="*", default=list(CALIBRATIONS), choices=list(CALIBRATIONS))
    arguments = parse_arguments(parser)
    for name in arguments.tasks:
        task = open_task(name, arguments)
        results = ResultsStore("base_choices", arguments)
        for label in arguments.choices:
            choice = Choice(task, CALIBRATIONS[label])
            for share in arguments.shares:
                makers: dict[str, Callable[[], PreTrainedModel]] = {label: partial(choice.prune, share)}
                if label == "default":
                    makers["target-residual"] = partial(choice.prune, share, target="residual")
                    if share < FIRST_SHARE:
                        makers["two-passes"] = partial(choice.prune_twice, share)
                for row, make in makers.items():
                    configuration = {"task": name, "encoder": arguments.encoder.name, "options": choice.options}
                    results.run(f"{name}/{row}-{share:g}", partial(measure, task, make), configuration)


if __name__ == "__main__":
    main()
