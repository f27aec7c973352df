"""Does a bound hold on unseen texts where the verdict of `compress` is that it holds? Searches on halves of the data.

    python experiments/coverage.py --data-dir ../shared/data/glue --banking ../shared/data/banking77

The search, its order and its limits are those of `compress` (`bertsurgeon.compression.search`); its candidates are
pruned once per task and run in PyTorch, and each search sees the answers to half of the texts. Two losses are compared
about; and that on the other half, which has an uncertainty of its own, as large as that of the first half.
about; and that on the other half, which has an uncertainty of its own, as large as that of the first.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bertsurgeon import AutoConfig, CalibrationConfig, CompressConfig, Sparsity, calibrate, prune
from bertsurgeon.compression import Bound
from bertsurgeon.compression.bounds import judge
from bertsurgeon.compression.candidate import Candidate, Spec
from bertsurgeon.compression.search import Search
from bertsurgeon.compression.work_folder import load_outputs, save_outputs
from bertsurgeon.prediction import evaluating, predict_outputs
from bertsurgeon.tasks.contributions import Contributions, contributions
from bertsurgeon.workflows import Inputs, load_inputs
from compress import TASKS, dense_folder, task_data
from lib.common import make_parser, parse_arguments
from lib.results_store import RUNS, ResultsStore

BOUNDS = (1.0, 2.0, 3.0, 5.0)
CONFIDENCE = 0.95


class Answers:
    """Answers of the dense model and of pruned ones to all validation texts of a task, kept in `runs/coverage`."""

    def __init__(self, task: str, folder: Path, inputs: Inputs) -> None:
        self.task, self.inputs = task, inputs
        self.folder = RUNS / "coverage"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = inputs.model
        self._calibration: Any = None

    @cache  # noqa: B019  # one object per task
    def of(self, share: float | None) -> Contributions:
        """Contributions to the task's metric of the model that keeps a share of the encoder; None for the dense one."""
        file = self.folder / f"{self.task}-{share}.safetensors"
        if not file.is_file():
            save_outputs(file, self._predict(share))
        task = self.inputs.task
        assert task is not None
        return contributions(task, task.metrics[0], load_outputs(file), self.inputs.validation)

    def _predict(self, share: float | None) -> list[dict[str, Tensor]]:
        model = self.model
        if share is not None:
            if self._calibration is None:
                self._calibration = calibrate(
                    model, CalibrationConfig(), self.inputs.calibration, self.inputs.tokenizer
                )
            model = prune(model, AutoConfig(Sparsity(1 - share)), self._calibration, self.inputs.tokenizer).model
        with evaluating(model):
            return predict_outputs(model, self.inputs.validation, self.inputs.tokenizer)


class HalfMaker:
    """Makes candidates for a search from the answers to some of the texts."""

    def __init__(self, answers: Answers, texts: "np.ndarray[Any, Any]", bound: Bound) -> None:
        self.answers, self.texts, self.bound = answers, texts, bound
        self.config = CompressConfig(runtime="pytorch", recover=False, minutes=1e6)
        self.runtime = "pytorch"
        self.step_seconds: dict[str, float] = {}

    def make(self, spec: Spec, *, confidence: float | None = None, training: Any = None) -> Candidate:
        """Returns a candidate, judged on the texts of this half."""
        sides = [part(self.answers.of(each), self.texts) for each in (None, spec.share)]
        quality = judge(sides[0], sides[1], self.bound, confidence or self.bound.confidence)
        entry = {
            "relative_time": spec.share or 1.0, "seconds": 0.0, "error": None, "encoder_weights": 1e7, "file_bytes": 1,
        }  # fmt: skip
        return Candidate(spec, f"{spec.share}", Path(), entry, None, quality)


def part(whole: Contributions, texts: "np.ndarray[Any, Any]") -> Contributions:
    """Returns the contributions of some texts."""
    return Contributions(whole.values[texts], whole.aggregate, whole.is_binary)


def search_halves(answers: Answers, bound: Bound, cuts: int, seed: int) -> dict[str, Any]:
    """Runs one search per cut of the texts into halves."""
    count = len(answers.of(None))
    runs = []
    for cut in range(cuts):
        order = np.random.default_rng([seed, cut]).permutation(count)
        searched, unseen = order[: count // 2], order[count // 2 :]
        for accept in ("measured", "shown"):
            maker = HalfMaker(answers, searched, bound)
            maker.config = CompressConfig(runtime="pytorch", recover=False, minutes=1e6, accept=accept)
            chosen = Search(maker).run().chosen  # type: ignore[arg-type]
            dense, pruned = (answers.of(each) for each in (None, chosen.spec.share))
            sides = [part(each, unseen) for each in (dense, pruned)]
            quality = chosen.quality
            assert quality is not None
            runs.append(
                {
                    "accept": accept, "share": chosen.spec.share, "verdict": quality.verdict, "loss": quality.loss,
                    "limit": quality.limit, "unseen_loss": sides[0].metric - sides[1].metric,
                    "whole_loss": dense.metric - pruned.metric,
                }
            )  # fmt: skip
    return {"texts": count, "runs": runs}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--banking", type=Path, default=None)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse_arguments(parser)
    results = ResultsStore("coverage", arguments)
    for task in arguments.tasks:
        folder = dense_folder(task, arguments.seed)
        inputs = load_inputs(str(folder), task_data(task, arguments.data_dir, arguments.banking), arguments.seed)
        answers = Answers(task, folder, inputs)
        assert inputs.task is not None
        for value in BOUNDS:
            bound = Bound("max_drop", value, CONFIDENCE, inputs.task.metrics[0])
            results.run(
                f"{task}-{value:g}",
                lambda answers=answers, bound=bound: search_halves(answers, bound, arguments.cuts, arguments.seed),
                {"task": task, "bound": value, "confidence": CONFIDENCE, "metric": bound.metric},
            )


if __name__ == "__main__":
    main()
