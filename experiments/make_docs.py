"""Writes the tables of the README and of ``docs`` from the results, and the index in ``experiments/README.md``.

    python experiments/make_docs.py
    python experiments/make_docs.py --check

Only text between ``<!-- NAME: generated … -->`` and ``<!-- end NAME -->`` is replaced. ``--check`` writes nothing; it
fails if a table is out of date, or if the index is incomplete or links to something that does not exist.
"""

import argparse
import re
import sys
from collections.abc import Callable

from lib.architecture_tables import architectures, names
from lib.base_tables import (
    base_deployed,
    base_headline,
    base_int8,
    base_peers,
    base_recovery,
    base_study,
    base_targets,
)
from lib.compress_tables import compress_found, compress_means, coverage, kill_compress
from lib.gpu_tables import gpu_equality, gpu_pruning, gpu_speed
from lib.index import check_index, index
from lib.obert_tables import fisher_engine, gradual, grouped_zeros, obert, obert_damping, sizes
from lib.pruning_tables import (
    ablation,
    baseline,
    choices,
    comparison,
    headline,
    mutation,
    recovery,
    structures,
)
from lib.results_store import ROOT
from lib.retrieval_tables import rerankers, retrieval_power, retrieval_study
from lib.speed_tables import (
    compound,
    deployed,
    grouped_layers,
    merged_products,
    performance,
    skip_norm,
    speed,
    study_costs,
)
from lib.study_tables import seeds, study
from lib.task_tables import decoder, embedder, embedder_options, embedder_recovery, squad

SECTIONS: dict[str, tuple[Callable[[], str], ...]] = {
    "README.md": (base_headline, headline),
    "docs/adding-an-architecture.md": (architectures,),
    "docs/compress.md": (coverage, compress_found, compress_means, kill_compress),
    "docs/embeddings.md": (embedder, embedder_recovery, embedder_options),
    "docs/format.md": (names,),
    "docs/gpu.md": (gpu_pruning, gpu_equality, gpu_speed),
    "docs/obert.md": (sizes, fisher_engine),
    "docs/performance.md": (
        performance,
        speed,
        grouped_layers,
        deployed,
        compound,
        merged_products,
        skip_norm,
    ),
    "docs/results.md": (
        base_study,
        base_targets,
        base_deployed,
        base_int8,
        base_recovery,
        base_peers,
        study,
        seeds,
        choices,
        recovery,
        structures,
        comparison,
        ablation,
        decoder,
        obert,
        obert_damping,
        study_costs,
        gradual,
        grouped_zeros,
    ),
    "docs/retrieval.md": (retrieval_power, retrieval_study, rerankers),
    "docs/tasks.md": (squad,),
    "docs/testing.md": (mutation,),
    "experiments/README.md": (baseline, index),
}
"""Functions that make a page's tables; each is named like its section."""


def fill(text: str, page: str) -> str:
    """Returns the text of a page with its tables generated again."""
    for make_table in SECTIONS[page]:
        name, content = make_table.__name__, make_table()
        pattern = rf"(<!-- {name}: generated[^>]*-->\n).*?(<!-- end {name} -->)"
        text, count = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{page} has {count} sections {name} instead of one.")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is out of date")
    arguments = parser.parse_args()
    problems = check_index()
    for page in SECTIONS:
        path = ROOT / page
        current = path.read_text(encoding="utf-8")
        updated = fill(current, page)
        if arguments.check and updated != current:
            problems.append(f"{page} is out of date: run python experiments/make_docs.py.")
        elif updated != current:
            path.write_text(updated, encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
