"""How an initialisation is run."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal, TypeAlias, get_args

from lightning_init.errors import Fault, InitConfigError, did_you_mean

__all__ = ["RngDevice", "Settings", "Sync"]

RngDevice: TypeAlias = Literal["auto", "cpu"]
Sync: TypeAlias = Literal["rank_zero_first", "broadcast"]


@dataclass(frozen=True)
class Settings:
    """How an initialisation is run.

    Attributes:
        seed: The seed of the random streams, an integer of Python or NumPy, stored as an ``int``; None for one draw
            from torch's default generator.
        rng_device: ``"auto"`` draws on a parameter's device, ``"cpu"`` gives the same bits on every kind of device.
        strict: What would be a warning is an error.
        require_all: A parameter that nothing wrote, or a checkpoint key that nothing took, is an error.
        sync: ``"rank_zero_first"`` lets every rank read a checkpoint, rank zero before the others; with
            ``"broadcast"`` rank zero alone reads, and the others receive.
        threads: How many threads draw numbers and take statistics on the CPU; None for as many as torch may use
            (`torch.get_num_threads`). The numbers do not depend on it.

    Raises:
        InitConfigError: Arguments of a wrong type or value.
    """

    seed: int | None = None
    rng_device: RngDevice = "auto"
    strict: bool = False
    require_all: bool = False
    sync: Sync = "rank_zero_first"
    threads: int | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.seed is not None and not _is_integer(self.seed):
            faults.append(Fault("seed", f"must be an integer or None, got {self.seed!r}"))
        if self.threads is not None and not (_is_integer(self.threads) and self.threads >= 1):
            faults.append(Fault("threads", f"must be an integer from 1 on or None, got {self.threads!r}"))
        for name, options in (("rng_device", get_args(RngDevice)), ("sync", get_args(Sync))):
            value = getattr(self, name)
            if value not in options:
                faults.append(
                    Fault(name, f"must be one of {options}, got {value!r}; {did_you_mean(str(value), options)}")
                )
        faults += [
            Fault(name, f"must be True or False, got {getattr(self, name)!r}")
            for name in ("strict", "require_all")
            if not isinstance(getattr(self, name), bool)
        ]
        if faults:
            raise InitConfigError(faults)
        for name in ("seed", "threads"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, int(getattr(self, name)))


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
