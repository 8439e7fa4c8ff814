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
_OTHERS = {"DeepSpeedStrategy", "XLAStrategy", "SingleDeviceXLAStrategy"}


def check_strategy(strategy: Strategy) -> None:
    """Lets through the strategies under which parameters can be initialised where the callback does it."""
    names = {cls.__name__ for cls in type(strategy).__mro__}
    if not isinstance(strategy, _KNOWN) or names & _OTHERS:
        raise InitError(
            f"InitWeightsCallback does not know how to initialise under {type(strategy).__name__}; it works on a "
            f"single device, under DDP, FSDP and ModelParallelStrategy"
        )
