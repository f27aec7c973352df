"""Which learning rate and which losses recovery wants, from the good start that ``auto`` leaves.

    python experiments/recovery.py --model runs/cola-0 --task cola --data-dir ../shared/data/glue

Every run has 200 steps of 32 sentences. Beside the metric each row has the divergence KL(dense ‖ recovered) of the
predictions on 512 training texts that neither calibration nor recovery has seen.
"""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import set_seed

from bertsurgeon import PruneConfig, TrainingOptions, calibrate, prune, train
from common import Probe, cached, parse_arguments

STEPS = 200
RATES = (2e-5, 5e-5, 1e-4)
HIDDEN = {0.12: (0.0, 1.0), 0.5: (0.0,)}
"""Weights of the teacher's hidden states, by the share that is kept."""
DROPOUT = (False, True)


def main() -> None:
    arguments = parse_arguments(__doc__)
    subject = Probe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)
    calibration = calibrate(subject.model, subject.rest, PruneConfig(sparsity=0.5), subject.tokenizer)

    def run(share: float, rate: float | None, hidden: float, dropout: bool) -> dict[str, Any]:
        set_seed(arguments.seed)
        pruned, _ = prune(subject.model, calibration, PruneConfig(sparsity=1 - share), subject.tokenizer)
        result: dict[str, Any] = {}
        if rate is not None:
            options = TrainingOptions(
                max_steps=STEPS,
                learning_rate=rate,
                hidden_weight=hidden,
                bf16=True,
                dropout=dropout,
                seed=arguments.seed,
            )
            with TemporaryDirectory() as folder:
                train(pruned, subject.rest, subject.tokenizer, options, Path(folder), teacher=subject.model)
            result["training"] = asdict(options)
        result["metrics"] = subject.score(pruned)
        result["divergence"] = subject.divergence(pruned)
        return result

    for share, weights in HIDDEN.items():
        cached(f"recovery/{arguments.task}/start-{share:g}", lambda k=share: run(k, None, 0.0, False))
        for hidden, dropout, rate in product(weights, DROPOUT, RATES):
            name = f"recovery/{arguments.task}/rate-{rate:g}-hidden-{hidden:g}-dropout-{dropout:d}-{share:g}"
            cached(name, lambda k=share, r=rate, h=hidden, d=dropout: run(k, r, h, d))


if __name__ == "__main__":
    main()
