"""What an initializer is, and the registry of initializers by name.

An initializer of one's own is a frozen dataclass on one of two contracts. `LawInitializer` turns a shape into a law;
`TensorInitializer` fills a whole tensor. Both get ``bias``, ``bias_prob`` and ``layer`` as keyword arguments.

>>> from dataclasses import dataclass
>>> from lightning_init.initializers.laws import Law, normal_law
>>> @INITIALIZERS.register
... @dataclass(frozen=True)
... class SmallInit(LawInitializer):
...     scale: float = 2.0
...
...     def check(self, checks):
...         checks.number("scale", self.scale, above=0)
...
...     def law(self, shape, fans) -> Law:
...         return normal_law(0.0, (self.scale / (5 * shape[-1])) ** 0.5)
>>> linear = nn.Linear(40, 2)
>>> SmallInit(scale=1.0, bias=3, layer="Linear")(linear)
>>> linear.bias.tolist()
[3.0, 3.0]
>>> @INITIALIZERS.register("Hadamard")
... @dataclass(frozen=True)
... class HadamardInit(TensorInitializer):
...     def fill(self, tensor, fans, generator) -> None:
...         tensor.fill_(1)[1::2, 1::2].neg_()
>>> HadamardInit(layer="Linear")(linear)
>>> linear.weight[:, :4].tolist()
[[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0]]
>>> SmallInit(scale=0)
Traceback (most recent call last):
    ...
lightning_init.errors.InitConfigError: scale: must be > 0, got 0
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_init import slot, tree
from lightning_init.errors import InitConfigError, InitWarning
from lightning_init.initializers.checks import Checks
from lightning_init.initializers.fill import BlockGenerators, can_hold, default_generators, fill_, fill_whole_
from lightning_init.initializers.formulas import Fans, bias_init_with_prob, fans_of
from lightning_init.initializers.laws import ConstantLaw, Law
from lightning_init.initializers.write import Write, write_all
from lightning_init.registry import Registry
from lightning_init.scope import LayerSpec, is_layer, layer_names
from lightning_init.units import held_flat
from lightning_init.workers import Workers, in_turn

__all__ = [
    "INITIALIZERS",
    "Fans",
    "Initializer",
    "LawInitializer",
    "TensorInitializer",
    "WeightInitializer",
    "call_text",
    "fans_of",
    "write_modules",
]


class Initializer(ABC):
    """Anything that the ``type`` of a rule can be."""

    @abstractmethod
    def describe(self) -> str:
        """Its short name with its arguments, such as ``"Normal(mean=0, std=0.01)"``."""


# The base is compared with, never called.
INITIALIZERS: Registry[Initializer] = Registry("initializer", Initializer, suffix="Init")  # type: ignore[type-abstract]
"""The initializers by short name; open to others through ``@INITIALIZERS.register``."""


def call_text(initializer: Initializer, arguments: Mapping[str, object]) -> str:
    """An initializer as a call of its short name.

    Args:
        initializer: Whose name is used.
        arguments: What stands in the parentheses.
    """
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"{INITIALIZERS.name_of(type(initializer))}({given})"


def _plain(value: Any) -> Any:
    """A scalar of NumPy or a fraction as the Python number that it is; anything else as it is."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


@dataclass(frozen=True, kw_only=True)
class WeightInitializer(Initializer):
    """An initializer of weights, and of the biases beside them.

    Attributes:
        bias: The constant that biases get.
        bias_prob: Instead of ``bias``: the probability that a sigmoid behind the layer starts from.
        layer: The classes of modules that a call writes to, by name or as such; a class counts for those derived from
            it as well.

    Raises:
        InitConfigError: An argument has a wrong type or value; all such faults are in it.
    """

    bias: float = 0
    bias_prob: float | None = None
    layer: LayerSpec = ()

    def __post_init__(self) -> None:
        checks = Checks()
        checks.number("bias", self.bias)
        if self.bias_prob is not None:
            checks.probability("bias_prob", self.bias_prob)
        try:
            object.__setattr__(self, "layer", layer_names(self.layer))
        except InitConfigError as error:
            checks.faults.extend(error.faults)
        self.check(checks)
        checks.close()
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))

    def check(self, checks: Checks) -> None:
        """Checks the initializer's own arguments; runs at construction.

        Args:
            checks: Takes the faults.
        """

    @property
    def bias_value(self) -> float:
        """The constant that biases get, from ``bias_prob`` where it is given."""
        return self.bias if self.bias_prob is None else bias_init_with_prob(self.bias_prob)

    @property
    def bias_law(self) -> ConstantLaw:
        """The law of the biases."""
        return ConstantLaw(self.bias_value)

    def arguments(self) -> dict[str, object]:
        """The arguments for the weight that `describe` shows."""
        of_biases = {field.name for field in fields(WeightInitializer)}
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in of_biases}
        return {name: value for name, value in values.items() if value is not None}

    def describe(self) -> str:
        """Its short name with the arguments that the weight is filled by."""
        return call_text(self, self.arguments())

    def describe_bias(self) -> str:
        """Its short name with the arguments that the bias is filled by."""
        shown: dict[str, object] = {"bias": float(f"{self.bias_value:.6g}") if self.bias_prob else self.bias}
        if self.bias_prob is not None:
            shown["bias_prob"] = self.bias_prob
        return call_text(self, shown)

    @abstractmethod
    def expected(self, shape: Sequence[int]) -> Law | None:
        """The law that a weight of that shape will follow; None where there is no such law.

        Raises:
            InitConfigError: A weight of that shape cannot be initialised.
        """

    def obstacle(self, shape: Sequence[int], dtype: torch.dtype) -> str | None:
        """Why a weight of that shape and type cannot be initialised; None if it can."""
        try:
            return can_hold(dtype, self.expected(shape))
        except InitConfigError as error:
            return str(error)

    @abstractmethod
    def write_(self, tensor: Tensor, generators: BlockGenerators, workers: Workers = in_turn) -> None:
        """Fills a weight in place.

        Args:
            tensor: The weight.
            generators: The generator of each of its blocks.
            workers: Who draws the blocks.

        Raises:
            InitError: It cannot be filled, for a reason that `obstacle` tells. Nothing has been written.
        """

    def __call__(self, module: nn.Module) -> None:
        """Writes ``weight`` and ``bias`` of every module at and below one whose class is in ``layer``.

        The numbers come from torch's default generator: two calls give different ones. ``module.apply(initializer)``
        ends in the same law.

        Args:
            module: Where to start.

        Raises:
            InitConfigError: Some parameter cannot be written; the error names them all, and nothing has been written.
        """
        if not self.layer:
            name = type(self).__name__
            message = f"{name} without `layer` writes nothing; name classes, as in {name}(..., layer=['Conv2d'])"
            warnings.warn(message, InitWarning, stacklevel=2)
            return
        layer = layer_names(self.layer)
        write_modules(self, ((path, part) for path, part in tree.walk(module) if is_layer(part, layer)))


class LawInitializer(WeightInitializer):
    """An initializer whose numbers are independent and follow one law."""

    @abstractmethod
    def law(self, shape: tuple[int, ...], fans: Fans | None) -> Law:
        """The law of a weight.

        Args:
            shape: The shape of the weight.
            fans: Its fans, None below two dimensions.

        Raises:
            InitConfigError: There is no law for that shape.
        """

    def expected(self, shape: Sequence[int]) -> Law:
        """The law that a weight of that shape will follow."""
        return self.law(tuple(shape), fans_of(shape))

    def write_(self, tensor: Tensor, generators: BlockGenerators, workers: Workers = in_turn) -> None:
        """Fills a weight in place, block by block."""
        fill_(tensor, self.expected(tensor.shape), generators, workers)


class TensorInitializer(WeightInitializer):
    """An initializer whose numbers depend on each other, so that it needs the whole tensor.

    Attributes:
        concurrent: Its ``fill`` may run in several threads at once, for a tensor each.
        is_random: Its numbers are drawn.
    """

    concurrent: ClassVar[bool] = False
    is_random: ClassVar[bool] = True

    @abstractmethod
    def fill(self, tensor: Tensor, fans: Fans | None, generator: torch.Generator | None) -> None:
        """Fills a weight in place.

        Args:
            tensor: Contiguous, in float32 or float64; every element has to be written.
            fans: Its fans, None below two dimensions.
            generator: Of the tensor's device; None for torch's default one.
        """

    def expected(self, shape: Sequence[int]) -> Law | None:  # noqa: ARG002  # for subclasses that do know
        """No law."""
        return None

    def write_(
        self,
        tensor: Tensor,
        generators: BlockGenerators,
        workers: Workers = in_turn,  # noqa: ARG002 - there are no blocks to share out
    ) -> None:
        """Fills a weight in place, as a whole."""
        fans = fans_of(tensor.shape)
        fill_whole_(tensor, lambda whole, generator: self.fill(whole, fans, generator), generators)


def write_modules(initializer: WeightInitializer, modules: Iterable[tuple[str, nn.Module]]) -> None:
    """Writes the own ``weight`` and ``bias`` of modules, where they have them, from torch's default generator.

    Args:
        initializer: What to write.
        modules: Modules with their names, for messages.

    Raises:
        InitConfigError: Some parameter cannot be written; the error names them all, and nothing has been written.
    """

    def fill_weight(tensor: Tensor) -> None:
        initializer.write_(tensor, default_generators)

    def fill_bias(tensor: Tensor) -> None:
        fill_(tensor, initializer.bias_law, default_generators)

    def bias_obstacle(_: Sequence[int], dtype: torch.dtype) -> str | None:
        return can_hold(dtype, initializer.bias_law)

    fills = {"weight": (initializer.obstacle, fill_weight), "bias": (bias_obstacle, fill_bias)}
    write_all(
        [
            Write(slot.join(path, name), module, name, *fills[name])
            for path, module in modules
            for name in dict.fromkeys([*slot.parameter_names(module), *held_flat(module)])
            if name in fills
        ]
    )
