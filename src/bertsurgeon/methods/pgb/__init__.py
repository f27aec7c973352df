"""``pgb``: permutation and grouping for BERT (Lim, Lee and Choi, arXiv 2502.03984)."""
