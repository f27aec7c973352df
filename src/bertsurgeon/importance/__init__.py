"""Importance: a second-order score for every weight."""

from bertsurgeon.importance.scores import Importance, fisher_scores, obs_scores, score_matrices

__all__ = ["Importance", "fisher_scores", "obs_scores", "score_matrices"]
