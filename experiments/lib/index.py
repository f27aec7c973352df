"""The index in ``experiments/README.md``: one entry per experiment, and the check that none is missing."""

import re
from dataclasses import dataclass

from lib.results_store import RESULTS, ROOT, read_rows, results_path
from lib.tables import MISSING, table

SST2 = "--model runs/minilm-sst2 --data-dir $GLUE"
COLA = "--model runs/cola-0 --task cola --data-dir $GLUE"


@dataclass(frozen=True)
class Experiment:
    """A script of ``experiments/``.

    Attributes:
        script: Its name without ``.py``, which is also that of its result file.
        question: The question that it answers.
        options: Of its main command; the docs list all commands.
        answer: Page and section of the docs with the answer.
        has_results: False if it writes something else than rows.
    """

    script: str
    question: str
    options: str
    answer: str
    has_results: bool = True

    @property
    def answer_title(self) -> str:
        """Page and section in words."""
        page, _, anchor = self.answer.removeprefix("docs/").partition("#")
        return f"{page.removesuffix('.md')}: {anchor.replace('-', ' ')}".removesuffix(": ")


EXPERIMENTS = {
    "Compression within a bound": (
        Experiment(
            "compress",
            "What does `compress` find with its defaults, in two runtimes, and what does pruning add to INT8?",
            "--data-dir $GLUE --banking $BANKING",
            "docs/compress.md#what-it-finds",
        ),
        Experiment(
            "coverage",
            "How often does a bound hold on unseen texts where the verdict is that it holds?",
            "--data-dir $GLUE --banking $BANKING",
            "docs/compress.md#how-often-the-bound-holds",
        ),
        Experiment(
            "kill_compress",
            "Is a killed `compress` continued to the same result, with nothing made twice?",
            "",
            "docs/compress.md#nothing-is-done-twice-nothing-is-lost",
        ),
    ),
    "Methods compared": (
        Experiment(
            "finetune",
            "Which learning rates suit the dense models of the study, and how good are they?",
            "--data-dir $GLUE",
            "docs/results.md#all-methods-five-tasks",
        ),
        Experiment(
            "base_encoder",
            "Where does the base-size encoder of the study come from?",
            "",
            "docs/results.md",
            has_results=False,
        ),
        Experiment(
            "base_study",
            "How good is each method at each share of a base-size encoder on six tasks?",
            "--data-dir $GLUE --banking $BANKING",
            "docs/results.md#a-base-size-encoder",
        ),
        Experiment(
            "base_peers",
            "How do other retraining-free methods do on the same dense models, with the same budgets?",
            "--data-dir $GLUE --banking $BANKING",
            "docs/results.md#a-base-size-encoder",
        ),
        Experiment(
            "base_recovery",
            "Which rate, length and losses suit recovery at base size, and does rounding in training help INT8?",
            "--data-dir $GLUE --banking $BANKING",
            "docs/results.md#a-base-size-encoder",
        ),
        Experiment(
            "base_deployed",
            "How good and how fast are the base-size study's models in each runtime and precision?",
            "--data-dir $GLUE --banking $BANKING",
            "docs/results.md#a-base-size-encoder",
        ),
        Experiment(
            "base_choices",
            "What does `auto` lose at base size when 12 % are kept, and which choice helps?",
            "--data-dir $GLUE --banking $BANKING",
            "docs/results.md",
            has_results=False,
        ),
        Experiment(
            "study",
            "How good is each method at each share on five tasks, one-shot and after the same recovery?",
            "--data-dir $GLUE --recover",
            "docs/results.md#all-methods-five-tasks",
        ),
        Experiment(
            "study_speed",
            "How fast does each model of the study run in PyTorch and ONNX Runtime?",
            "--data-dir $GLUE",
            "docs/results.md#all-methods-five-tasks",
        ),
        Experiment(
            "compare",
            "How does PGB compare with magnitude, no permutation and Torch-Pruning, one-shot and recovered?",
            SST2,
            "docs/results.md#pgb-and-its-peers",
        ),
        Experiment(
            "baseline",
            "Did the rebuild of the package change plans or metrics?",
            COLA,
            "experiments/README.md#plans-and-metrics-by-version",
        ),
    ),
    "Parts and options of a method": (
        Experiment(
            "ablation",
            "What do permutation, compensation and the number of groups each contribute to PGB?",
            SST2,
            "docs/results.md#what-each-part-is-worth",
        ),
        Experiment(
            "choices",
            "What does each option of `auto` contribute?",
            COLA,
            "docs/results.md#what-each-choice-of-auto-is-worth",
        ),
        Experiment(
            "structures",
            "Which structure loses least on which matrix and sub-layer?",
            COLA,
            "docs/results.md#which-structure-suits-which-matrix",
        ),
        Experiment(
            "recovery",
            "Which learning rate and which losses suit recovery after `auto`?",
            COLA,
            "docs/results.md#recovery",
        ),
        Experiment(
            "site_figures",
            "Which method suits which goal, in pictures of the other results?",
            "",
            "docs/choosing.md",
            has_results=False,
        ),
        Experiment(
            "figures",
            "What do permutations, error curves and plans look like?",
            SST2,
            "docs/how-it-works.md",
            has_results=False,
        ),
    ),
    "oBERT": (
        Experiment(
            "obert",
            "What do recomputing, updating and compensation contribute in one shot, against magnitude?",
            f"{SST2} --samples 512 --updates obert",
            "docs/results.md#obert",
        ),
        Experiment(
            "obert_damping",
            "How does the damping change oBERT's selection and update?",
            f"{SST2} --samples 512",
            "docs/results.md#obert",
        ),
        Experiment(
            "grouped_zeros",
            "Is oBERT inside the structure of `pgb` or `auto` better than oBERT alone?",
            f"{SST2} --samples 512",
            "docs/results.md#obert",
        ),
        Experiment(
            "gradual",
            "How good are models that are pruned to 90 % while training, then trained for INT8?",
            f"{SST2} --epochs 3 --int8-epochs 0.5 --bf16",
            "docs/results.md#obert",
        ),
        Experiment(
            "sizes",
            "How much smaller do zeros, INT8 and zstd make a file?",
            "",
            "docs/obert.md#what-a-file-takes",
        ),
        Experiment(
            "fisher_engine",
            "How much time and memory do inverse Fisher blocks take, by their size?",
            "",
            "docs/obert.md#what-a-pruning-takes",
        ),
    ),
    "Other tasks and models": (
        Experiment(
            "squad",
            "How much F1 does question answering keep?",
            "--data-dir ../shared/data/squad",
            "docs/tasks.md#measured",
        ),
        Experiment(
            "embedder",
            "How good and how fast is a pruned sentence embedder?",
            "--data-dir $GLUE",
            "docs/embeddings.md#measured",
        ),
        Experiment(
            "retrieval",
            "What does pruning cost embedders on judged queries, beside the small models that replace them?",
            "--data-dir $GLUE --cranfield ../shared/data/cranfield",
            "docs/retrieval.md#what-pruning-costs-embedders",
        ),
        Experiment(
            "embedder_options",
            "What should an embedder be pruned and recovered by?",
            "--data-dir $GLUE --cranfield ../shared/data/cranfield --documents --bf16 --steps 120",
            "docs/embeddings.md#measured",
        ),
        Experiment(
            "rerankers",
            "What does pruning cost a reranker on judged queries?",
            "--cranfield ../shared/data/cranfield --bf16 --steps 60",
            "docs/retrieval.md#what-pruning-costs-rerankers",
        ),
        Experiment(
            "decoder",
            "How does the perplexity of a small decoder change, against removal by magnitude?",
            "",
            "docs/results.md#a-decoder",
        ),
        Experiment(
            "architecture_table",
            "Which heads of which architecture can be pruned, reloaded and exported?",
            "",
            "docs/adding-an-architecture.md",
        ),
    ),
    "Time, memory and speed": (
        Experiment(
            "performance",
            "How long does pruning take, and how much memory?",
            "--size base",
            "docs/performance.md#time-and-memory-of-pruning",
        ),
        Experiment(
            "gpu",
            "How long does pruning take on a GPU, is the result the CPU's, and how fast do pruned models run there?",
            "",
            "docs/gpu.md",
        ),
        Experiment(
            "speed",
            "How much faster do pruned encoders of BERT-base's shape run in each runtime and precision?",
            "",
            "docs/performance.md#speed-of-pruned-models",
        ),
        Experiment(
            "deployed",
            "How good and how fast are pruned models in each runtime and precision?",
            "--data-dir $GLUE",
            "docs/performance.md#quality-and-speed-where-models-are-deployed",
        ),
        Experiment(
            "compound",
            "What do fewer layers, pruning and INT8 give together?",
            "--data-dir $GLUE",
            "docs/performance.md#fewer-layers-pruning-and-int8",
        ),
        Experiment(
            "grouped_layers",
            "Which implementation of an aligned grouped projection is fastest in PyTorch?",
            "",
            "docs/performance.md#ways-to-compute-aligned-groups-in-pytorch",
        ),
        Experiment(
            "merged_products",
            "Is one product for query, key and value faster than three?",
            "",
            "docs/performance.md#one-product-for-query-key-and-value",
        ),
        Experiment(
            "skip_norm",
            "Does fusing an addition with the LayerNorm after it make ONNX Runtime faster?",
            "",
            "docs/performance.md#norms-and-additions",
        ),
    ),
    "The code": (
        Experiment(
            "mutation",
            "Which share of small mistakes in the code do the fast tests miss?",
            "--label after",
            "docs/testing.md#mutants",
        ),
    ),
}
"""By kind of question."""


def index() -> str:
    """Makes one table per kind of question; minutes are the sum over the stored rows."""
    parts = []
    for title, experiments in EXPERIMENTS.items():
        rows = []
        for experiment in experiments:
            stored_rows = read_rows(experiment.script).values() if experiment.has_results else ()
            minutes = sum(row["seconds"] or 0.0 for row in stored_rows) / 60
            file = results_path(experiment.script).relative_to(ROOT / "experiments")
            rows.append(
                [
                    experiment.question,
                    f"`python experiments/{experiment.script}.py {experiment.options}".rstrip() + "`",
                    f"{minutes:.0f}" if minutes >= 1 else "< 1" if stored_rows else MISSING,
                    f"[{len(stored_rows)} rows]({file})" if stored_rows else MISSING,
                    f"[{experiment.answer_title}](../{experiment.answer})",
                ]
            )
        parts.append(f"### {title}\n\n" + table(["question", "command", "minutes", "results", "answer"], rows))
    return "\n\n".join(parts)


def check_index() -> list[str]:
    """Returns what is missing: entries of scripts and result files, and scripts, rows and answers of entries."""
    entries = {entry.script: entry for experiments in EXPERIMENTS.values() for entry in experiments}
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"make_docs"}
    files = {path.stem for path in RESULTS.glob("*.jsonl")}
    with_results = {name for name, entry in entries.items() if entry.has_results}
    problems = [f"experiments/{name}.py is missing from lib/index.py." for name in scripts - set(entries)]
    problems += [f"lib/index.py has {name}, but there is no such script." for name in set(entries) - scripts]
    problems += [f"results/{name}.jsonl belongs to no script in lib/index.py." for name in files - with_results]
    problems += [f"results/{name}.jsonl does not exist." for name in with_results - files]
    problems += [
        f"results/{path.relative_to(RESULTS)} is not a file of rows."
        for path in RESULTS.iterdir()
        if path.suffix != ".jsonl"
    ]
    problems += [
        f"{name}: {entry.answer} does not exist." for name, entry in entries.items() if not _exists(entry.answer)
    ]
    return sorted(problems)


def _exists(link: str) -> bool:
    """Returns True if a page exists and has the linked section."""
    page, _, anchor = link.partition("#")
    path = ROOT / page
    if not path.is_file():
        return False
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return not anchor or anchor in {_anchor(heading) for heading in headings}


def _anchor(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
