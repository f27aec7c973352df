"""Architecture knowledge: one table of supported encoders."""

from bertsurgeon.architectures.table import ARCHITECTURES, Architecture, get_architecture

__all__ = ["ARCHITECTURES", "Architecture", "get_architecture"]
