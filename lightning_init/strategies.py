"""What is known of Lightning's strategies."""

from __future__ import annotations

from lightning.pytorch.strategies import (
    DDPStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from lightning_init.errors import InitError

__all__ = ["check_strategy"]

_KNOWN = (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, ModelParallelStrategy)

# They are derived from those that are known, and do other things with parameters. By name: not all of them import.
_XLA = {"XLAStrategy", "SingleDeviceXLAStrategy"}
_DEEPSPEED = "DeepSpeedStrategy"


def check_strategy(strategy: Strategy) -> None:
    """Lets through the strategies under which parameters can be initialised where the callback does it.

    A subclass of such a strategy is taken for one that does nothing else with parameters.

    Raises:
        InitError: It is none of these; the error says what to do instead.
    """
    names = {cls.__name__ for cls in type(strategy).__mro__}
    if isinstance(strategy, _KNOWN) and not names & {_DEEPSPEED, *_XLA}:
        return
    stage = _zero_stage(strategy) if _DEEPSPEED in names else None
    where = type(strategy).__name__ + ("" if stage is None else f" (ZeRO stage {stage})")
    late = ", or, where configure_model makes layers, init_weights(self, seed=...) at its end"
    raise InitError(
        f"InitWeightsCallback does not initialise under {where}, where it has never been run; it works on a single "
        f"device, under DDP, FSDP and ModelParallelStrategy. Elsewhere call init_weights(model, seed=...) in every "
        f"process before trainer.fit, in place of the callback{late if stage != 3 else ''}"
    )


def _zero_stage(strategy: Strategy) -> object:
    config = getattr(strategy, "config", None)
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    return zero.get("stage", 0) if isinstance(zero, dict) else 0
