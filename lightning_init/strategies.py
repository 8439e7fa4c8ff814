"""What is known of Lightning's strategies."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy

from lightning_init.errors import InitError

__all__ = ["check_strategy"]


def check_strategy(strategy: Strategy) -> None:
    """Lets through the strategies that leave parameters as they are right after ``configure_model``."""
    names = {cls.__name__ for cls in type(strategy).__mro__}
    known = isinstance(strategy, SingleDeviceStrategy | DDPStrategy | ModelParallelStrategy)
    if not known or names & {"DeepSpeedStrategy", "XLAStrategy"}:
        raise InitError(
            f"InitWeightsCallback does not know how to initialise under {type(strategy).__name__}; it works on a "
            f"single device, under DDP and under ModelParallelStrategy"
        )
