"""What one rule fills weights with, or biases, worked out once for all tensors of a shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lightning_init.errors import InitError
from lightning_init.initializers.base import LawInitializer, TensorInitializer, WeightInitializer
from lightning_init.initializers.fill import Later, can_hold, draw_, refuse_place
from lightning_init.initializers.laws import ConstantLaw, Law
from lightning_init.rng import Stream, lent
from lightning_init.workers import Workers, in_turn

__all__ = ["Recipe"]

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Recipe:
    """What one rule fills its weights with, or its biases.

    Attributes:
        initializer: The rule's initializer.
        is_bias: Biases are filled, by the initializer's ``bias``.
        what: The declared initializer with the arguments that count.
        is_ours: The initializer is one of this library, whose arguments and laws are finite.
        is_by_law: It is filled by its law and nothing else.
        is_quick: It is filled by a law of this library, and nothing has to be looked at afterwards.
        is_concurrent: A tensor may be filled while others are, as a whole: its numbers are not drawn in blocks.
    """

    initializer: WeightInitializer
    is_bias: bool
    what: str
    is_ours: bool
    is_by_law: bool
    is_quick: bool
    is_concurrent: bool
    _laws: dict[Shape, Law | None] = field(default_factory=dict, init=False)
    _obstacles: dict[tuple[Shape, torch.dtype], str | None] = field(default_factory=dict, init=False)
    _of_tensors: dict[tuple[Shape, torch.dtype], tuple[Law, int | None]] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, initializer: WeightInitializer, *, is_bias: bool) -> Recipe:
        """The recipe for weights, or for biases."""
        is_ours = type(initializer).__module__.partition(".")[0] == __package__
        is_by_law = is_bias or type(initializer).write_ is LawInitializer.write_
        return cls(
            initializer,
            is_bias,
            initializer.describe_bias() if is_bias else initializer.describe(),
            is_ours,
            is_by_law,
            is_by_law and (is_ours or (is_bias and type(initializer).bias_law is WeightInitializer.bias_law)),
            isinstance(initializer, TensorInitializer) and initializer.concurrent and not is_bias,
        )

    def expected(self, shape: Shape) -> Law | None:
        """The law of the numbers; None where there is no such law.

        Raises:
            InitConfigError: The initializer cannot fill a tensor of this shape.
        """
        if shape not in self._laws:
            self._laws[shape] = self.initializer.bias_law if self.is_bias else self.initializer.expected(shape)
        return self._laws[shape]

    def obstacle(self, shape: Shape, dtype: torch.dtype) -> str | None:
        """Why a tensor of that shape and type cannot be filled; None if it can."""
        key = shape, dtype
        if key not in self._obstacles:
            self._obstacles[key] = self._obstacle(shape, dtype)
        return self._obstacles[key]

    def _obstacle(self, shape: Shape, dtype: torch.dtype) -> str | None:
        return can_hold(dtype, self.expected(shape)) if self.is_bias else self.initializer.obstacle(shape, dtype)

    def is_random(self, shape: Shape) -> bool:
        """The numbers are drawn."""
        if isinstance(self.initializer, TensorInitializer) and not self.is_bias:
            return self.initializer.is_random
        return not isinstance(self.expected(shape), ConstantLaw)

    def write(self, tensor: Tensor, stream: Stream, workers: Workers = in_turn, later: Later | None = None) -> None:
        """Fills a tensor in place.

        Args:
            tensor: What is filled.
            stream: Its random numbers.
            workers: Who draws them.
            later: Takes what a law fills a large tensor with, instead of the workers.

        Raises:
            InitError: It cannot be filled, for a reason that `obstacle` tells, or has no storage.
        """
        if not self.is_by_law:
            self.initializer.write_(tensor, stream.generator, workers)
            return
        refuse_place(tensor)
        law, words = self._ready(tensor)
        draw_(tensor, law, stream.generator if words is None else partial(stream.lent, words=words), workers, later)

    def write_small(self, tensor: Tensor, seed: int, name: str) -> None:
        """`write` for a tensor of the CPU that `is_small`, by a recipe that `is_quick`.

        Args:
            tensor: What is filled; it records no gradient at the moment.
            seed: The seed of its random numbers.
            name: Their name.

        Raises:
            InitError: It cannot be filled, for a reason that `obstacle` tells.
        """
        ready = self._of_tensors.get((tensor.shape, tensor.dtype))
        law, words = self._ready(tensor) if ready is None else ready
        if words == 0:
            law.fill(tensor, None)
        elif words is None:
            law.fill(tensor.view(-1), Stream(seed, name).generator(0))
        else:
            # Our laws that know their words take elements one by one, and to flatten takes as long as to draw.
            law.fill(tensor, lent(seed, name, 0, words))

    def _ready(self, tensor: Tensor) -> tuple[Law, int | None]:
        """The law of a tensor, and how many words it takes."""
        key = tensor.shape, tensor.dtype
        found = self._of_tensors.get(key)
        if found is None:
            shape = tuple(tensor.shape)
            reason = self.obstacle(shape, tensor.dtype)
            if reason:
                raise InitError(reason)
            law = self.expected(shape)
            assert law is not None  # noqa: S101 - neither for biases nor for a `LawInitializer`
            found = self._of_tensors[key] = law, law.words(tensor.numel(), tensor.dtype)
        return found
