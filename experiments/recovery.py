"""Which learning rate and which losses recovery wants, from the good start that ``auto`` leaves.

    python experiments/recovery.py --model runs/cola-0 --task cola --data-dir ../shared/data/glue

Every run has 200 steps of 32 sentences. Beside the metric each row has the divergence KL(dense ‖ recovered) of the
predictions on 512 training texts that neither calibration nor recovery has seen.
"""

from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import set_seed

from bertsurgeon import PruneConfig, TrainingOptions, calibrate, prune, train
from common import Probe, cached, parse_arguments

STEPS = 200


@dataclass(frozen=True)
class Tried:
    """What is tried at a share, each with each.

    Attributes:
        rates: Learning rates.
        hidden: Weights of the teacher's hidden states.
        dropout: Whether the model's dropouts act.
        hardness: Weights of the teacher's outputs, against the labels.
    """

    rates: tuple[float, ...] = (1e-5, 2e-5, 5e-5, 1e-4)
    hidden: tuple[float, ...] = (0.0,)
    dropout: tuple[bool, ...] = (False, True)
    hardness: tuple[float, ...] = (0.9,)


TEACHER_ALONE = Tried((2e-5, 5e-5), dropout=(False,), hardness=(1.0,))
TRIED = (
    (0.12, Tried((2e-5, 5e-5, 1e-4), (0.0, 1.0))),
    (0.25, Tried()),
    (0.5, Tried(dropout=(False,))),
    (0.25, TEACHER_ALONE),
    (0.5, TEACHER_ALONE),
)
"""With the share that is kept."""


def main() -> None:
    arguments = parse_arguments(__doc__)
    subject = Probe(arguments.model, arguments.task, arguments.data_dir, arguments.seed)
    calibration = calibrate(subject.model, subject.rest, PruneConfig(sparsity=0.5), subject.tokenizer)

    def run(share: float, options: TrainingOptions | None) -> dict[str, Any]:
        set_seed(arguments.seed)
        pruned, _ = prune(subject.model, calibration, PruneConfig(sparsity=1 - share), subject.tokenizer)
        result: dict[str, Any] = {}
        if options is not None:
            with TemporaryDirectory() as folder:
                train(pruned, subject.rest, subject.tokenizer, options, Path(folder), teacher=subject.model)
            result["training"] = asdict(options)
        result["metrics"] = subject.score(pruned)
        result["divergence"] = subject.divergence(pruned)
        return result

    for share, tried in TRIED:
        cached(f"recovery/{arguments.task}/start-{share:g}", lambda k=share: run(k, None))
        for hardness, hidden, dropout, rate in product(tried.hardness, tried.hidden, tried.dropout, tried.rates):
            options = TrainingOptions(
                max_steps=STEPS,
                learning_rate=rate,
                hardness=hardness,
                hidden_weight=hidden,
                bf16=True,
                dropout=dropout,
                seed=arguments.seed,
            )
            name = f"recovery/{arguments.task}/rate-{rate:g}-hidden-{hidden:g}-dropout-{dropout:d}"
            heard = "" if hardness == 0.9 else f"-hardness-{hardness:g}"
            cached(f"{name}{heard}-{share:g}", lambda k=share, o=options: run(k, o))


if __name__ == "__main__":
    main()
