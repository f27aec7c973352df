"""Vocabulary trimming: removes tokens that a corpus never uses, from tokenizer and model together."""

from bertsurgeon.vocabulary.trim import TrimReport, TrimResult, trim_vocabulary

__all__ = ["TrimReport", "TrimResult", "trim_vocabulary"]
