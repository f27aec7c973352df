"""A linear map through a bottleneck."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LowRankLinear(nn.Module):
    """Two thin factors instead of one matrix: W ≈ U V.

    Attributes:
        weight: V, shape (rank, in_features); a shape no dense layer has, so that a process without this library cannot
            load the checkpoint.
        up: U, shape (out_features, rank).
        bias: Shape (out_features,), or None.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        self.weight = nn.Parameter(torch.zeros(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_dense(cls, rank: int, weight: Tensor, bias: Tensor | None) -> "LowRankLinear":
        """The balanced factors U√S and √S Vᵀ of a weight's truncated singular value decomposition.

        Args:
            rank: Inner width; a weight of at most this rank is represented exactly.
            weight: Shape (out_features, in_features).
            bias: Shape (out_features,), or None.
        """
        layer = cls(weight.shape[1], weight.shape[0], rank, bias is not None).to(weight.device, weight.dtype)
        U, S, V = torch.linalg.svd(weight.detach().double(), full_matrices=False)
        root = S[:rank].sqrt()
        with torch.no_grad():
            layer.up.copy_(U[:, :rank] * root)
            layer.weight.copy_(root.unsqueeze(1) * V[:rank])
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        return layer

    def dense_weight(self) -> Tensor:
        """The product of the factors, shape (out_features, in_features)."""
        return self.up.detach() @ self.weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        return F.linear(F.linear(x, self.weight), self.up, self.bias)

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
