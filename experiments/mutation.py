"""Which share of small changes to the code (mutants) survives the tests?

    python experiments/mutation.py [--label after --mutants 70]

Mutants are sampled over all modules in ``TARGETS``, in proportion to their number, and run against the fast tests that
concern a module: one architecture, nothing that trains or exports. A mutant survives if all of these pass. The row
names survivors by line and change; read them, and add a test for each that matters.

mutmut and cosmic-ray run all mutants of a file against one command; here each needs a fresh start of torch and
transformers, so that a sample takes longer than a night. ``lib/mutants.py`` starts them once and forks.
"""

import argparse
import json
import subprocess
import sys

from bertsurgeon import progress
from lib.results_store import ROOT, ResultsStore

AUTO = "tests/methods/auto"
OBERT = "tests/methods/obert"
FAST = "not distilbert and not roberta"
COSTS = [
    f"{AUTO}/test_costs.py",
    f"{AUTO}/test_search.py",
    "-k",
    f"{FAST} and not more_budget and not both_structures and not small_units and not rise_along and not plan_costs",
]
CURVES = [
    f"{AUTO}/test_removal.py",
    f"{AUTO}/test_curves.py",
    f"{AUTO}/test_aligned_groups.py",
    "-k",
    f"{FAST} and not groups_alone and not need_a_calibration",
]
COMPENSATION = [
    "tests/compensation",
    "tests/calibration/test_moments.py",
    f"{AUTO}/test_curves.py",
    f"{AUTO}/test_allocated_plans.py",
    f"{OBERT}/test_obert_in_plans.py::test_fits_inside_structures_are_least_squares",
    "-k",
    f"{FAST} and not hidden_states and not padding and not nothing_changes",
]
STEP = [
    f"{OBERT}/test_solve.py",
    f"{OBERT}/test_step.py",
    f"{OBERT}/test_inverse_fisher.py",
    "-k",
    f"{FAST} and not lower_the_loss and not 1x8 and not surrogate",
]
TARGETS = {
    **{f"bertsurgeon/methods/auto/{name}.py": COSTS for name in ("search", "costs")},
    **{f"bertsurgeon/methods/auto/{name}.py": CURVES for name in ("curves", "groups", "removal")},
    **{
        f"bertsurgeon/compensation/{path.name}": COMPENSATION
        for path in sorted((ROOT / "src" / "bertsurgeon" / "compensation").glob("[a-z]*.py"))
    },
    **{f"bertsurgeon/methods/obert/{name}.py": STEP for name in ("solve", "step", "selection")},
}
"""Modules and the tests that concern them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rerun", metavar="PATTERN", help="measure rows again whose names match")
    parser.add_argument("--label", default="all", help="name of the row")
    parser.add_argument("--mutants", type=int, default=70)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    progress.show()
    job = {
        "root": str(ROOT),
        "seed": arguments.seed,
        "mutants": arguments.mutants,
        "targets": {target: ["-m", "not slow", *tests] for target, tests in TARGETS.items()},
    }

    def measure() -> dict[str, object]:
        command = [sys.executable, str(ROOT / "experiments" / "lib" / "mutants.py")]
        output = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True).stdout
        modules = json.loads(output)
        sampled, survived = (sum(entry[key] for entry in modules.values()) for key in ("mutants", "survived"))
        return {"mutants": sampled, "survived": survived, "share": round(survived / sampled, 3), "modules": modules}

    results = ResultsStore("mutation", arguments)
    results.run(arguments.label, measure, {"mutants": arguments.mutants, "tests": "fast"})


if __name__ == "__main__":
    main()
