"""``obert``: the Optimal BERT Surgeon (Kurtic et al., 2022, arXiv 2203.07259), one step for any schedule."""
