"""`WeightStatistics`: the statistics of named tensors as a torchmetrics ``Metric``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torchmetrics import Metric

from lightning_init.chunks import obstacle
from lightning_init.errors import Fault, InitError
from lightning_init.moments import Moments, merge, moments_of_all, statistics
from lightning_init.report.plots import draw_statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["WeightStatistics"]


class WeightStatistics(Metric):
    """Statistics of named tensors: of weights, or of anything else that has a name.

    A name that is updated again gets further elements, as if both tensors had been one. The tensors are read, never
    written or kept, so live weights are safe. Replicas are never added up: each process has the statistics of what it
    was given, also after ``sync``. What is remembered are Python numbers, so ``to`` and ``half`` do not touch it.

    Example:
        >>> import torch
        >>> metric = WeightStatistics()
        >>> metric.update({"head.weight": torch.tensor([[1.0, -1.0], [0.0, 4.0]])})
        >>> metric.compute()["head.weight"]["mean"]
        1.0
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    # One entry per name: the name, and the fields of its `Moments` as a plain tuple, which a checkpoint that is read
    # with `weights_only=True` may hold (`persistent(True)`).
    records: list[tuple[str, tuple[Any, ...]]]

    def __init__(self) -> None:
        # The answer is a mutable dict that costs nothing to make: a cached one could be changed by its reader.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.add_state("records", default=[], dist_reduce_fx=None)

    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Add tensors by name.

        Args:
            tensors: A tensor of any shape for each name. With a ``DTensor`` among them, every rank has to call this;
                its statistics are those of the whole tensor.

        Raises:
            InitError: Some cannot be measured (see `moments`); all of these are named, and none of the others is added.
        """
        if faults := _faults(tensors):
            raise InitError(faults)
        merged = _merge_by_name([*self._recorded(), *moments_of_all(tensors).items()])
        self.records = [(name, astuple(known)) for name, known in merged.items()]

    def compute(self) -> dict[str, dict[str, float]]:
        """The statistics of every name since the last ``reset``: ``{name: {statistic: value}}``, names as they came."""
        return {name: statistics(known) for name, known in _merge_by_name(self._recorded()).items()}

    def plot(
        self,
        val: Mapping[str, Mapping[str, float]] | Sequence[Mapping[str, Mapping[str, float]]] | None = None,
        ax: Axes | None = None,
        *,
        statistic: str = "std",
    ) -> tuple[Figure, Axes]:
        """Draw one statistic of every name (with the extra ``plot``).

        Args:
            val: What ``compute`` or ``forward`` returned, or a list of such values, which are drawn as lines; by
                default what ``compute`` returns now.
            ax: Where to draw; by default a new figure, which no backend knows of.
            statistic: Which one.

        Returns:
            The figure and the axes.

        Raises:
            InitError: There is no such statistic, or matplotlib is not installed.
        """
        return draw_statistic(self.compute() if val is None else val, ax, statistic=statistic)

    def _recorded(self) -> Iterator[tuple[str, Moments]]:
        # `forward` and `merge_state` of torchmetrics join two states end to end, so a name may be here twice.
        return ((name, Moments(*fields)) for name, fields in self.records)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> nn.Module:
        return super()._apply(fn, exclude_state=("records", *exclude_state))


def _merge_by_name(measured: Iterable[tuple[str, Moments]]) -> dict[str, Moments]:
    merged: dict[str, Moments] = {}
    for name, more in measured:
        merged[name] = merge(merged.get(name, Moments()), more)
    return merged


def _faults(tensors: object) -> list[Fault]:
    if not isinstance(tensors, Mapping):
        return [Fault("", f"WeightStatistics takes a mapping of names to tensors, got {type(tensors).__name__}")]
    return [Fault(str(name), reason) for name, tensor in tensors.items() if (reason := obstacle(tensor))]
