"""How much pruning may leave of an encoder: a budget is a value, such as ``Sparsity(0.5)`` or ``Speedup(2)``."""

from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from bertsurgeon.errors import OptionError
from bertsurgeon.exporting import ExportConfig
from bertsurgeon.options import REQUIRED, documented, option
from bertsurgeon.runtime import Precision

SpeedupRuntime = Literal["pytorch", "onnx", "openvino"]


def check_types(config: Any) -> None:
    """Checks the types of a configuration's values against its annotations.

    Lists become tuples, and numbers of NumPy become Python's; fields of other classes are not checked.

    Args:
        config: Instance of a dataclass, which may be frozen.

    Raises:
        OptionError: If a value has another type.
    """
    hints = get_type_hints(type(config))
    for each in fields(config):
        value, hint = getattr(config, each.name), hints[each.name]
        checked = _checked(each.name, value, hint)
        if checked is not value:
            object.__setattr__(config, each.name, checked)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """Returns a value in the type of its annotation."""
    optional = type(None) in get_args(hint)
    if optional and value is None:
        return None
    kind = next(each for each in get_args(hint) if each is not type(None)) if optional else hint
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise OptionError(f"{name} must be a tuple or list of strings, not {value!r}.")
        if len(set(value)) < len(value):
            raise OptionError(f"{name} must name each value once, not {value!r}.")
        return tuple(value)
    suffix = " or None" if optional else ""
    if kind is bool and not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False{suffix}, not {value!r}.")
    if (kind is str or get_origin(kind) is Literal) and not isinstance(value, str):
        raise OptionError(f"{name} must be a string{suffix}, not {value!r}.")
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise OptionError(f"{name} must be a whole number{suffix}, not {value!r}.")
        return int(value)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise OptionError(f"{name} must be a number{suffix}, not {value!r}.")
        return int(value) if isinstance(value, Integral) else float(value)
    return value


@dataclass(frozen=True)
class Budget:
    """Base class of all budgets.

    Attributes:
        name: Name in reports, and of the command-line option.
    """

    name: ClassVar[str]

    @property
    def amount(self) -> float:
        """The number that was asked for: a share, a factor, a threshold or a count."""
        return float(getattr(self, fields(self)[0].name))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {"kind": self.name, **asdict(self)}


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise OptionError(f"{name} must lie strictly between 0 and 1, not {share:g}: 0.5 removes half.")


@documented
@dataclass(frozen=True)
class Sparsity(Budget):
    """A share of the encoder's weights is removed.

    Raises:
        OptionError: If the share does not lie between 0 and 1.

    Example:
        >>> from bertsurgeon import Sparsity
        >>> Sparsity(1.5)
        Traceback (most recent call last):
        bertsurgeon.errors.OptionError: The sparsity must lie strictly between 0 and 1, not 1.5: 0.5 removes half.
    """

    name: ClassVar[str] = "sparsity"
    share: float = option(REQUIRED, "Share of the encoder's weights to remove, between 0 and 1.", flag="--sparsity")

    def __post_init__(self) -> None:
        """Checks the types and the range."""
        check_types(self)
        _check_share("The sparsity", self.share)


@documented
@dataclass(frozen=True)
class Flops(Budget):
    """A share of the encoder's floating-point operations is removed.

    Raises:
        OptionError: If the share does not lie between 0 and 1, or the length is not positive.
    """

    name: ClassVar[str] = "flops"
    share: float = option(
        REQUIRED, "Share of the encoder's floating-point operations to remove, between 0 and 1.", flag="--flops"
    )
    length: int = option(128, "Tokens per text for which operations are counted.", flag="--flops-length")

    def __post_init__(self) -> None:
        """Checks the types and the ranges."""
        check_types(self)
        _check_share("The share of FLOPs", self.share)
        if self.length < 1:
            raise OptionError(f"Operations are counted for texts of at least 1 token, not {self.length}.")


@documented
@dataclass(frozen=True)
class Speedup(Budget):
    """The model runs a given number of times as fast as the dense one on this machine, embeddings and head included.

    Raises:
        OptionError: If the factor is not greater than 1, or runtime and precision do not go together.
    """

    name: ClassVar[str] = "speedup"
    factor: float = option(REQUIRED, "Ratio of the dense model's latency to the pruned model's.", flag="--speedup")
    runtime: SpeedupRuntime = option(
        "pytorch",
        "Runtime in which the latency is measured; onnx and openvino after an export.",
        choices=get_args(SpeedupRuntime),
        flag="--speedup-runtime",
    )
    precision: Precision = option(
        "fp32",
        "Precision in that runtime: fp32 anywhere, bf16 in openvino, int8 in onnx and openvino.",
        choices=get_args(Precision),
        flag="--speedup-precision",
    )
    batch_size: int = option(1, "Texts per batch for the latency.", flag="--speedup-batch-size")
    length: int = option(128, "Tokens per text for the latency.", flag="--speedup-length")

    def __post_init__(self) -> None:
        """Checks the types and the ranges, and that runtime and precision go together."""
        check_types(self)
        if not 1 < self.factor < float("inf"):
            raise OptionError(f"The speedup must be greater than 1, not {self.factor:g}: 2 halves the latency.")
        if self.runtime not in get_args(SpeedupRuntime):
            raise OptionError(
                f"The speedup's runtime must be one of {', '.join(get_args(SpeedupRuntime))}, not {self.runtime!r}."
            )
        if self.precision not in get_args(Precision):
            raise OptionError(
                f"The speedup's precision must be one of {', '.join(get_args(Precision))}, not {self.precision!r}."
            )
        if self.runtime != "pytorch":
            ExportConfig(self.runtime, self.precision)  # refuses combinations that no runtime offers
        elif self.precision != "fp32":
            raise OptionError("In PyTorch the speedup is measured in fp32; other precisions need another runtime.")
        if self.batch_size < 1 or self.length < 1:
            raise OptionError("The speedup is measured on at least 1 text of at least 1 token.")


@documented
@dataclass(frozen=True)
class Threshold(Budget):
    """The threshold rule of PGB's paper (Lim, Lee and Choi, arXiv 2502.03984) sets the number of groups.

    Raises:
        OptionError: If the threshold is negative or not finite.
    """

    name: ClassVar[str] = "threshold"
    tau: float = option(REQUIRED, "Importance τ above which a weight counts, such as 1e-5.", flag="--threshold")

    def __post_init__(self) -> None:
        """Checks the types and the range."""
        check_types(self)
        if not 0 <= self.tau < float("inf"):
            raise OptionError(f"The threshold must be a finite number of at least 0, not {self.tau}.")


@documented
@dataclass(frozen=True)
class Groups(Budget):
    """Every matrix gets the same number of groups.

    Raises:
        OptionError: If the number is not positive.
    """

    name: ClassVar[str] = "groups"
    count: int = option(REQUIRED, "Number of groups of every matrix.", flag="--groups")

    def __post_init__(self) -> None:
        """Checks the types and the range."""
        check_types(self)
        if self.count < 1:
            raise OptionError(f"The number of groups must be at least 1, not {self.count}.")


BUDGETS: tuple[type[Budget], ...] = (Sparsity, Flops, Speedup, Threshold, Groups)
"""All budgets; which of them a method accepts is part of its configuration class."""
