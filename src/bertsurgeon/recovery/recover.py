"""Recovery: a pruned model learns again what it lost."""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bertsurgeon import distributed
from bertsurgeon.checkpoint import get_plan, is_sparse
from bertsurgeon.errors import ModelError
from bertsurgeon.recovery.config import TrainingConfig
from bertsurgeon.recovery.training import train
from bertsurgeon.tasks import check_same_head, has_labels


def recover(
    model: PreTrainedModel,
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingConfig | None = None,
    teacher: PreTrainedModel | None = None,
    *,
    work_dir: Path | None = None,
    resume: bool = False,
    description: str = "Recovering",
) -> PreTrainedModel:
    """Re-finetunes a pruned or sparse model, in place; what is gone stays gone.

    Args:
        model: What :func:`bertsurgeon.prune` returned.
        data: Tokenized texts; without labels only the teacher is heard.
        tokenizer: Pads the batches.
        options: How to train; None for the defaults.
        teacher: The dense model, to distil from, or None.
        work_dir: Where checkpoints are kept, to be resumed from; None for a folder that is removed afterwards.
        resume: Go on from the last checkpoint in ``work_dir``.
        description: Shown beside the progress bar.

    Returns:
        The same model.

    Raises:
        ModelError: If it is dense, or the teacher predicts something else.
        OptionError: If there are neither labels nor a teacher.

    Example:
        >>> from bertsurgeon import PruneConfig, TrainingConfig, prune, recover
        >>> from bertsurgeon.tasks import tokenize
        >>> from bertsurgeon.testing import toy_classifier
        >>> model, tokenizer, texts = toy_classifier()
        >>> data = tokenize(texts, tokenizer)
        >>> pruned, _ = prune(model, data, PruneConfig(sparsity=0.5), tokenizer)
        >>> pruned = recover(pruned, data, tokenizer, TrainingConfig(max_steps=2), teacher=model)
    """
    if get_plan(model) is None and not is_sparse(model):
        raise ModelError("The model is dense; prune it first, or fine-tune it with 'bertsurgeon.train'.")
    options = options or TrainingConfig()
    if teacher is not None:
        check_same_head(model, teacher)
        if not has_labels(data.column_names):
            options = replace(options, distillation_weight=1.0)

    def run(folder: Path) -> None:
        train(model, data, tokenizer, options, folder, teacher=teacher, resume=resume, description=description)

    if work_dir is not None:
        run(work_dir)
    else:
        with distributed.temporary_folder() as folder:
            run(folder)
    return model
