"""Asks the adapters, one after the other, about what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_init.checkpoint.matching.adapters import ADAPTERS, Adaptation, Adapter, Misfit, check_adapters
from lightning_init.checkpoint.matching.matched import Adapted, Mismatch
from lightning_init.errors import CheckpointError, Fault

__all__ = ["adapt", "chosen_adapters"]


def chosen_adapters(names: Sequence[str] | None) -> dict[str, Adapter]:
    """The adapters of these names in their order; all of them for None.

    Raises:
        CheckpointError: There is no such adapter.
    """
    faults = check_adapters(names)
    if faults:
        raise CheckpointError(faults)
    return {name: ADAPTERS[name] for name in (ADAPTERS if names is None else names)}


def adapt(misfit: Misfit, adapters: dict[str, Adapter], source: str) -> Adapted | dict[str, str]:
    """The answer of the first adapter that takes a misfit.

    Args:
        misfit: What does not fit.
        adapters: Whom to ask.
        source: The checkpoint's name, for messages.

    Returns:
        What is to be done, or the reasons of all of them.

    Raises:
        CheckpointError: An adapter fails, or answers something else.
    """
    reasons: dict[str, str] = {}
    for name, adapter in adapters.items():
        where = f"the adapter {name!r}, asked about {misfit.key!r} of {source!r} for {misfit.target.name!r},"
        try:
            answer = adapter(misfit)
        except Exception as error:
            told = f"{where} failed: {type(error).__name__}: {error}"
            raise CheckpointError([Fault("adapters", told)]) from error
        if isinstance(answer, Adaptation):
            mismatch = Mismatch(misfit.target.name, misfit.key, misfit.entry.shape, misfit.target.shape)
            return Adapted(name, mismatch, answer)
        if not isinstance(answer, str):
            told = f"{where} must answer with an Adaptation or a reason, not {answer!r}"
            raise CheckpointError([Fault("adapters", told)])
        reasons[name] = answer
    return reasons
