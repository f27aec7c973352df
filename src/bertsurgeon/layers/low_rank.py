"""Linear layers of low rank.

They keep the parameter name ``weight`` with a shape that no dense layer has, as grouped layers do.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _factorize(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Returns the balanced factors U√S and √S Vᵀ of a weight's truncated singular value decomposition.

    U is the eigenvectors of the smaller Gram matrix, several times faster than the decomposition itself. Singular
    values below 1e-8 of the largest are not resolved, which is less than fp32 stores.

    Args:
        weight: Shape (out, in), fp64.
        rank: Number of singular values.
    """
    if len(weight) > weight.shape[1]:
        down, up = _factorize(weight.T, rank)
        return up.T, down.T
    directions = torch.linalg.eigh(weight @ weight.T)[1][:, -rank:].flip(1)
    projected = directions.T @ weight  # S Vᵀ
    root = projected.norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny).sqrt()
    return directions * root, projected / root.unsqueeze(1)


class LowRankLinear(nn.Module):
    """A linear map through a bottleneck, two thin factors instead of one matrix: W ≈ U V.

    Args:
        in_features: Input channels.
        out_features: Output channels.
        rank: Inner width.
        bias: Whether the layer has a bias.

    Attributes:
        weight: V, shape (rank, in_features).
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
        """Makes the layer with the balanced factors U√S and √S Vᵀ of a weight's truncated singular value decomposition.

        Args:
            rank: Inner width; a weight of at most this rank is represented exactly.
            weight: Shape (out_features, in_features).
            bias: Shape (out_features,), or None.
        """
        layer = cls(weight.shape[1], weight.shape[0], rank, bias is not None).to(weight.device, weight.dtype)
        up, down = _factorize(weight.detach().double(), rank)
        with torch.no_grad():
            layer.up.copy_(up)
            layer.weight.copy_(down)
            if layer.bias is not None and bias is not None:
                layer.bias.copy_(bias)
        return layer

    def dense_weight(self) -> Tensor:
        """Returns the product of the factors, shape (out_features, in_features)."""
        return self.up.detach() @ self.weight.detach()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, in_features) to (…, out_features)."""
        return F.linear(F.linear(x, self.weight), self.up, self.bias)

    def extra_repr(self) -> str:
        """Describes the layer when the model is printed."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"
