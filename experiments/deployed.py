"""Quality and speed where models are deployed: pruned, exported, and quantized, each against dense PyTorch in fp32.

    python experiments/deployed.py --data-dir ../shared/data/glue
    python experiments/deployed.py --data-dir ../shared/data/glue --speed

MiniLM on SST-2 and STS-B, one-shot ``auto``; the dense models are those of the study. Speeds are those of SST-2's
models, at 8 x 128 and 1 x 128 tokens, interleaved with dense PyTorch fp32. Finished rows are kept as JSON and not run
again.
"""

import argparse
from pathlib import Path
from typing import Any

from bertsurgeon import ExportConfig, evaluate, export, load_model, progress, prune, save_model
from bertsurgeon.benchmark import Contender, open_contender
from bertsurgeon.cli.app import quieten_libraries
from common import cached, speedups
from speed import PRECISIONS
from study import RUNS, Subject, load

SHARES = (1.0, 0.5, 0.25, 0.12, 0.06)
SHAPES = ((8, 128), (1, 128))


def pruned_folder(subject: Subject, task: str, share: float) -> Path:
    """The dense folder, or one with what ``auto`` keeps."""
    if share == 1.0:
        return subject.folder
    folder = RUNS / "deployed" / f"{task}-{share:g}"
    if not folder.is_dir():
        model, _ = prune(subject.model, subject.calibration, subject.config(share), subject.tokenizer)
        save_model(model, folder, subject.tokenizer)
    return folder


def opened(subject: Subject, task: str, share: float, runtime: str, precision: str) -> tuple[Contender, dict[str, Any]]:
    """The model where it runs, and what was found when it was exported there."""
    folder = pruned_folder(subject, task, share)
    if runtime == "pytorch":
        return open_contender(str(folder) if precision == "fp32" else f"{folder}@{precision}"), {}
    exported = RUNS / "deployed" / f"{task}-{share:g}-{runtime}-{precision}"
    if not exported.is_dir():
        config = ExportConfig(runtime, precision)  # type: ignore[arg-type]
        export(load_model(folder), exported, config, subject.train, subject.tokenizer)
    contender = open_contender(str(exported))
    return contender, contender.model.manifest.check


def quality(subject: Subject, task: str, share: float, runtime: str, precision: str) -> dict[str, Any]:
    contender, check = opened(subject, task, share, runtime, precision)
    return {
        "metrics": evaluate(contender.model, subject.validation, subject.tokenizer, subject.data.task),
        "check": check,
        "file_bytes": contender.file_bytes,
    }


def speed(subject: Subject, task: str, share: float, runtime: str, precision: str) -> dict[str, Any]:
    model = opened(subject, task, share, runtime, precision)[0].model
    return {"speedup": speedups(subject.model, model, SHAPES)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=("sst2", "stsb"))
    parser.add_argument(
        "--speed", action="store_true", help="time the first task's models, instead; wants a quiet machine"
    )
    arguments = parser.parse_args()
    quieten_libraries()
    progress.show()
    for task in arguments.tasks[:1] if arguments.speed else arguments.tasks:
        subject = load(task, 0, arguments.data_dir)
        for share in SHARES:
            for runtime, precision in PRECISIONS:
                name = f"{task}-{share:g}-{runtime}-{precision}"
                if arguments.speed:
                    name = f"speed-{name}"
                measure = speed if arguments.speed else quality
                cached(
                    f"deployed/{name}",
                    lambda s=subject, t=task, k=share, r=runtime, p=precision, m=measure: m(s, t, k, r, p),
                )


if __name__ == "__main__":
    main()
