"""Quality of ``auto`` with one option changed at a time.

    python experiments/choices.py --model runs/cola-0 --task cola --data-dir ../shared/data/glue

Besides the metric, each row has the divergence KL(dense ‖ pruned) of the predictions on 512 training texts that are
not calibrated on: it is far less noisy than a metric on a small development set.
"""

from functools import partial
from typing import Any

from bertsurgeon import AutoConfig, Sparsity
from lib.common import make_task_parser, parse_arguments
from lib.models import Probe
from lib.results_store import ResultsStore

CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "metric-plain": {"metric": "plain"},
    "no-token-weighting": {"token_weighting": 0.0},
    "token-weighting-0.9": {"token_weighting": 0.9},
    "target-residual": {"target": "residual"},
    "labels": {"use_labels": True},
    "samples-512": {"samples": 512},
    "samples-1024": {"samples": 1024},
    "damping-1e-4": {"damping": 1e-4},
    "damping-1e-2": {"damping": 1e-2},
}


def main() -> None:
    arguments = parse_arguments(make_task_parser(__doc__))
    results = ResultsStore("choices", arguments)
    probe = Probe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)

    for name, changes in CHOICES.items():
        for share in (0.25, 0.12):
            options = {"seed": arguments.seed, **changes}
            config = AutoConfig(Sparsity(1 - share), **options)
            configuration = {"task": arguments.task, "pruning": config.to_dict()}
            results.run(f"{arguments.task}/{name}-{share:g}", partial(probe.one_shot, config), configuration)


if __name__ == "__main__":
    main()
