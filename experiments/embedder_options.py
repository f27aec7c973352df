r"""What an embedder should be pruned and recovered by: options of the calibration, and targets beyond the embedding.

    python experiments/embedder_options.py --data-dir ../shared/data/glue --cranfield ../shared/data/cranfield \
        --documents --bf16 --steps 120

A quarter of all-MiniLM-L6-v2 (`--model`, `--share`) is kept, without labels. One-shot variants differ in the
calibration, the others are the model that `retrieval.py` prunes, recovered on the same texts in the same steps. The
queries and judgements of the collection, held-out sentences and STS-B only measure.

- `one-shot`: no recovery. `many-texts`, `even-tokens`, `sensitive-tokens`, `plain-errors`: the same with about four
  times the calibration texts, other weights of tokens in the regressions, or errors of equal weight.
- `documents-calibration`: calibrated on the documents of the collection alone.
- `refit`: no recovery, but a refit of the embeddings (`bertsurgeon.refit_embeddings`) on the texts of the calibration;
  `refit-documents` on the documents; `documents-calibration-refit` both on them.
- `plain`: the loss of `recover`: the distance from the teacher's embedding, and the cosines within the batch.
- `bank`: also the cosines with the teacher's embeddings of other texts, kept from one pass (`--bank` texts).
- `ranks`: also the divergence of the softmax of these cosines, whose temperature lets near neighbors count.
- `rate-X`: `plain` at another learning rate. `sentences`: `plain` on the documents and their sentences.
- `plain-refit`, `sentences-refit`: refit on the documents afterwards.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, set_seed

from bertsurgeon import AutoConfig, CalibrationConfig, Sparsity, calibrate, load_model, prune, refit_embeddings, train
from bertsurgeon.evaluation import compare
from bertsurgeon.prediction import predict_outputs
from bertsurgeon.retrieval import evaluate_retrieval
from bertsurgeon.tasks import load_task, tokenize
from bertsurgeon.tasks.distributions import Embeddings
from bertsurgeon.tasks.types import Embedding
from embedder import SOURCES, sentences
from lib.common import parse_arguments
from lib.results_store import ResultsStore
from lib.variants import selected
from retrieval import Judged, Teacher, documents_of, make_retrieval_parser

MANY_TEXTS = 3_000
"""For the calibration; the default is as many as make 24,576 tokens."""
RATES = (5e-4, 1e-3)
TEMPERATURE = 0.05
"""Of the softmax of cosines with a bank, as contrastive training of embedders has it."""


class Study:
    """The pruned embedder, its teacher and what measures it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.teacher, self.judged = arguments, Teacher(arguments.model, arguments), Judged(arguments)
        self.kept: dict[Any, PreTrainedModel] = {}
        parts = [load_task(source, arguments.data_dir).validation for source in SOURCES]
        held_out = sentences(parts, 2_000 // len(SOURCES), arguments.seed)
        self.held_out = tokenize(held_out, self.teacher.tokenizer, self.teacher.max_length, Embedding())

    def pruned(self) -> PreTrainedModel:
        """Loads the model pruned one-shot."""
        return load_model(self.teacher.make(f"auto-{self.arguments.share:g}"))

    @cached_property
    def bank_texts(self) -> Dataset:
        """Texts of the bank, drawn from those of training."""
        texts = self.teacher.texts.shuffle(seed=self.arguments.seed + 1)
        return texts.select(range(min(self.arguments.bank, len(texts))))

    @cached_property
    def bank(self) -> Tensor:
        """The teacher's embeddings of them, shape (texts, width), at unit length."""
        return F.normalize(self.embed(self.teacher.dense, self.bank_texts), dim=-1)

    def embed(self, model: PreTrainedModel, rows: Dataset) -> Tensor:
        """Returns embeddings, shape (texts, width)."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.arguments.bf16):
            outputs = predict_outputs(model.eval(), rows, self.teacher.tokenizer, description="Embedding")
        return torch.stack([row["sentence_embedding"].float().flatten() for row in outputs])

    @cached_property
    def documents(self) -> Dataset:
        """The documents of the collection, tokenized."""
        return self.teacher.load_refit_texts()

    @cached_property
    def sentences(self) -> Dataset:
        """The documents of the collection and their sentences, tokenized."""
        documents = documents_of(self.judged.collection)
        texts = [*documents, *(sentence for text in documents for sentence in text.split(" . ") if sentence.strip())]
        rows = Dataset.from_dict({"text": texts}).shuffle(seed=self.arguments.seed)
        return tokenize(rows, self.teacher.tokenizer, self.teacher.max_length, Embedding())

    def prune(self, texts: Dataset | None = None, **options: Any) -> PreTrainedModel:
        """Prunes with other texts or options of the calibration."""
        teacher, seed = self.teacher, self.arguments.seed
        config = CalibrationConfig(seed=seed, **options)
        calibration = calibrate(teacher.dense, config, teacher.texts if texts is None else texts, teacher.tokenizer)
        budget = Sparsity(1 - self.arguments.share)
        return prune(teacher.dense, AutoConfig(budget, seed=seed), calibration, teacher.tokenizer).model

    def measure(self, model: Any) -> dict[str, Any]:
        """Returns metrics of the search, of neighbors and of scored pairs."""
        tokenizer = self.teacher.tokenizer
        metrics = {
            **evaluate_retrieval(model, None, self.judged.collection, tokenizer).metrics,
            **self.teacher.correlations(model, self.judged),
            **compare(self.teacher.dense, model, self.held_out, tokenizer),
        }
        return {"metrics": metrics}

    def recover(
        self, loss: Callable[[Tensor, Tensor], Tensor] | None, rate: float, texts: Dataset | None = None
    ) -> PreTrainedModel:
        """Recovers with a term that is added to the loss of embeddings, or on other texts; kept for a refit."""
        key = (loss and loss.__name__, rate, texts and len(texts))
        if key in self.kept:
            return self.kept.pop(key)
        model, config = self.pruned(), self.teacher.training
        set_seed(config.seed)
        usual_loss = Embeddings.divergence

        def divergence(family: Embeddings, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
            added = 0.0 if loss is None else loss(student, teacher)
            return usual_loss(family, student, teacher, temperature) + added

        with patch.object(Embeddings, "divergence", divergence), TemporaryDirectory() as work:
            train(
                model,
                replace(config, learning_rate=rate),
                self.teacher.texts if texts is None else texts,
                self.teacher.tokenizer,
                teacher=self.teacher.dense,
                work_dir=Path(work),
                description="Recovering",
            )
        self.kept[key] = model
        return model

    def bank_cosines(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the mean squared difference of the cosines with the bank."""
        ours, targets = (F.normalize(z, dim=-1) @ self.bank.T for z in (student, teacher))
        return F.mse_loss(ours, targets)

    def bank_ranks(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the divergence of the softmax of the cosines with the bank."""
        ours, targets = (
            (F.normalize(z, dim=-1) @ self.bank.T / TEMPERATURE).log_softmax(-1) for z in (student, teacher)
        )
        return F.kl_div(ours, targets, reduction="batchmean", log_target=True)

    def refit(self, model: PreTrainedModel, texts: Dataset) -> dict[str, Any]:
        """Refits a model's embeddings, and measures."""
        refit_embeddings(model, texts, self.teacher.tokenizer, teacher=self.teacher.dense)
        return self.measure(model)


def main() -> None:
    parser = make_retrieval_parser(__doc__)
    parser.add_argument("--bank", type=int, default=4_096, help="texts whose embeddings of the teacher are kept")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--share", type=float, default=0.25, help="of the encoder, kept")
    arguments = parse_arguments(parser)
    results = ResultsStore("embedder_options", arguments)
    study = Study(arguments)
    usual = arguments.learning_rate
    documents, mixed = study.documents, study.teacher.texts
    rows: dict[str, Callable[[], dict[str, Any]]] = {
        "dense": lambda: study.measure(study.teacher.dense),
        "one-shot": lambda: study.measure(study.pruned()),
        "many-texts": lambda: study.measure(study.prune(samples=MANY_TEXTS)),
        "even-tokens": lambda: study.measure(study.prune(token_weighting=0.0)),
        "sensitive-tokens": lambda: study.measure(study.prune(token_weighting=1.0)),
        "plain-errors": lambda: study.measure(study.prune(metric="plain")),
        "documents-calibration": lambda: study.measure(study.prune(documents)),
        "refit": lambda: study.refit(study.pruned(), mixed),
        "refit-documents": lambda: study.refit(study.pruned(), documents),
        "documents-calibration-refit": lambda: study.refit(study.prune(documents), documents),
        "plain": lambda: study.measure(study.recover(None, usual)),
        "bank": lambda: study.measure(study.recover(study.bank_cosines, usual)),
        "ranks": lambda: study.measure(study.recover(study.bank_ranks, usual)),
        "plain-refit": lambda: study.refit(study.recover(None, usual), documents),
        "sentences": lambda: study.measure(study.recover(None, usual, study.sentences)),
        "sentences-refit": lambda: study.refit(study.recover(None, usual, study.sentences), documents),
    }
    for rate in RATES:
        rows[f"rate-{rate:g}"] = lambda rate=rate: study.measure(study.recover(None, rate))  # type: ignore[misc]
    for name, measure in rows.items():
        if selected(name, arguments):
            results.run(
                f"{arguments.model}-{arguments.share:g}/{name}",
                measure,
                {"bank": arguments.bank, "training": asdict(study.teacher.training)},
            )


if __name__ == "__main__":
    main()
