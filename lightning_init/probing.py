"""The signal probe in a Trainer's run: which batch, which step, and on which ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from lightning_init import distributed
from lightning_init.batches import first_batch
from lightning_init.errors import Fault, InitConfigError, InitError, did_you_mean
from lightning_init.lending import without_draws
from lightning_init.probe import copied, probe
from lightning_init.report import LayerSignal

__all__ = ["PROBES", "check_probe", "probe_run"]

T = TypeVar("T")

PROBES = ("example_input_array", "train_dataloader")
"""What stands for a batch by its name."""


def check_probe(given: Any) -> None:
    """Refuses a name that stands for no batch.

    Raises:
        InitConfigError: It is such a name.
    """
    if isinstance(given, str) and given not in PROBES:
        raise InitConfigError([Fault("probe", f"cannot be {given!r}; {did_you_mean(given, PROBES)}")])


def probe_run(trainer: pl.Trainer, pl_module: pl.LightningModule, given: Any) -> tuple[tuple[LayerSignal, ...], str]:
    """Probes the module as it is at the start of training.

    Every rank takes part, since layers such as ``SyncBatchNorm`` and sharded ones talk to each other; what is measured
    is what rank zero saw of its batch. The module is not run in its DDP wrapper. A rank that has no batch keeps all
    from running; one whose step fails is heard of when the others have finished theirs.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        given: One of `PROBES`, or a batch as the train dataloader would give it.

    Returns:
        The layers, and what went wrong; one of them is empty.
    """
    batch, failure = _attempt(partial(_batch, trainer, pl_module, given))
    if told := _told(distributed.from_all("the batch of the probe", failure)):
        return (), told
    signal, failure = _attempt(partial(_signal, trainer, pl_module, batch, is_example=_is(given, PROBES[0])))
    outcomes = distributed.from_all("the probe", (signal or (), failure))
    told = _told([failure for _, failure in outcomes])
    return ((), told) if told else (outcomes[0][0], "")


def _attempt(run: Callable[[], T]) -> tuple[T | None, str]:
    try:
        return run(), ""
    except Exception as error:  # noqa: BLE001  # whatever it is, the training goes on
        return None, f"{type(error).__name__}: {error}"


def _told(failures: list[str]) -> str:
    ranks = [i for i, failure in enumerate(failures) if failure]
    if not ranks:
        return ""
    where = "" if len(ranks) == len(failures) else f" [on rank {', '.join(map(str, ranks))}]"
    return f"{failures[ranks[0]]}{where}"


def _is(given: Any, name: str) -> bool:
    return isinstance(given, str) and given == name


def _batch(trainer: pl.Trainer, pl_module: pl.LightningModule, given: Any) -> Any:
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy):
        raise InitError(f"the probe does not run under {type(trainer.strategy).__name__}")
    if _is(given, "example_input_array"):
        if pl_module.example_input_array is None:
            raise InitError(f"{type(pl_module).__name__} has no example_input_array")
        return copied(pl_module.example_input_array)
    if _is(given, "train_dataloader"):
        with without_draws():
            return first_batch(trainer.train_dataloader)
    return copied(given)


def _signal(
    trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *, is_example: bool
) -> tuple[LayerSignal, ...]:
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = 1.0 if scaler is None else float(scaler.get_scale())
    step = partial(_step, trainer, pl_module)
    with _unlogged(trainer), trainer.precision_plugin.train_step_context():
        if is_example:
            return probe(pl_module, _moved(trainer, pl_module, batch), loss_scale=scale)
        if pl_module.automatic_optimization:
            return probe(pl_module, batch, step=step, loss_scale=scale)
        # The step of a manual optimization moves the weights.
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        return probe(pl_module, _moved(trainer, pl_module, inputs), loss_scale=scale)


def _step(trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> Any:
    # On the instance, whose attributes are put back.
    pl_module.log = pl_module.log_dict = _say_nothing  # type: ignore[method-assign]
    # Its arguments have any names; the index of the batch is optional.
    index = (0,) if is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2) else ()
    return pl_module.training_step(_moved(trainer, pl_module, batch), *index)


def _moved(trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> Any:
    """As the training does it, with the hooks of module or datamodule around it."""
    with without_draws():
        batch = trainer.precision_plugin.convert_input(batch)
        batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)  # noqa: SLF001 - it knows whose hook it is
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def _unlogged(trainer: pl.Trainer) -> Iterator[None]:
    """A step that writes to ``self.logger`` itself reaches none."""
    loggers, should_stop = trainer.loggers, trainer.should_stop
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers, trainer.should_stop = loggers, should_stop


def _say_nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for ``log``."""
