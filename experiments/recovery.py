"""Which learning rate and which losses recovery wants, from the good start that ``auto`` leaves.

    python experiments/recovery.py --model runs/cola-0 --task cola --data-dir ../shared/data/glue

Every run has 400 steps of 32 sentences. Beside the metric each row has the divergence KL(dense ‖ recovered) of the
predictions on 512 training texts that neither calibration nor recovery has seen.
"""

from dataclasses import asdict
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.nn import functional as F
from transformers import set_seed

from bertsurgeon import PruneConfig, TrainingOptions, calibrate, evaluate, load_model, prune, train
from bertsurgeon.checkpoint import load_tokenizer
from bertsurgeon.prediction import predict
from bertsurgeon.tasks import load_task, tokenize
from common import cached, parse_arguments

PROBE = 512
STEPS = 400
SHARES = (0.25, 0.12)
RATES = (2e-5, 1e-4, 5e-4)
HIDDEN = (0.0, 1.0)


def main() -> None:
    arguments = parse_arguments(__doc__)
    model, tokenizer = load_model(arguments.model), load_tokenizer(arguments.model)
    data = load_task(arguments.task, arguments.data_dir)
    shuffled = tokenize(data.train, tokenizer).shuffle(seed=arguments.seed)
    probe, rest = shuffled.select(range(PROBE)), shuffled.select(range(PROBE, len(shuffled)))
    validation = tokenize(data.validation, tokenizer)
    wanted = predict(model, probe, tokenizer, 64, "Asking the dense model").log_softmax(-1)
    calibration = calibrate(model, rest, PruneConfig(sparsity=0.5), tokenizer)

    def run(share: float, rate: float | None, hidden: float) -> dict[str, Any]:
        set_seed(arguments.seed)
        pruned, _ = prune(model, calibration, PruneConfig(sparsity=1 - share), tokenizer)
        result: dict[str, Any] = {}
        if rate is not None:
            options = TrainingOptions(
                max_steps=STEPS, learning_rate=rate, hidden_weight=hidden, bf16=True, seed=arguments.seed
            )
            with TemporaryDirectory() as folder:
                train(pruned, rest, tokenizer, options, Path(folder), teacher=model)
            result["training"] = asdict(options)
        found = predict(pruned, probe, tokenizer, 64, "Asking the pruned model").log_softmax(-1)
        result["metrics"] = evaluate(pruned, validation, tokenizer, data.task)
        result["divergence"] = float(F.kl_div(found, wanted, reduction="batchmean", log_target=True))
        return result

    for share in SHARES:
        cached(f"recovery/{arguments.task}/start-{share:g}", lambda k=share: run(k, None, 0.0))
        for rate, hidden in product(RATES, HIDDEN):
            name = f"recovery/{arguments.task}/rate-{rate:g}-hidden-{hidden:g}-{share:g}"
            cached(name, lambda k=share, r=rate, h=hidden: run(k, r, h))


if __name__ == "__main__":
    main()
