"""Seeds and random streams: every block of every parameter has a generator of its own.

The stream of a block is named by the text ``lightning_init/1|<seed>|<name>|<block>`` in UTF-8, where ``name`` is the
qualified name of the parameter from the root and ``block`` counts blocks of `block_size` elements of the parameter's
flattened logical order. SHAKE-128 of that text gives the state of the generator. The sizes and the text change only
with a major version of this library.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BLOCK", "BLOCK_ELSEWHERE", "Stream", "block_size", "draw_seed", "isolated", "lent"]

BLOCK = 2**18
"""Elements that one generator of the CPU draws: they stay in the cache of a core."""

BLOCK_ELSEWHERE = 2**22
"""Elements that one generator of another device draws: such a device has to be started for every block."""

_PREFIX = "lightning_init/1|"

# `Generator.get_state()` of a CPU generator: seed, words left before the next twist, whether it is seeded, index of the
# next word; 624 words of mt19937 in slots of 64 bits; then a cache of normal numbers, empty here.
_HEADER = struct.pack("<QiiQ", 0, 624, 1, 0)
_WORDS = 624
_CPU = torch.device("cpu")
_STATE_BYTES = 5056


def block_size(device: torch.device) -> int:
    """How many elements of a tensor one generator of a device draws."""
    return BLOCK if device.type == "cpu" else BLOCK_ELSEWHERE


@dataclass(frozen=True)
class Stream:
    """The random numbers of one parameter.

    Attributes:
        seed: Any integer; all of its digits count.
        name: The qualified name of the parameter, seen from the root of the initialisation.
        device: Where to draw. The numbers are the same on all CPUs; another kind of device has other numbers.

    >>> a, b = (torch.rand(1, generator=Stream(0, "head.weight").generator(block)) for block in (0, 1))
    >>> bool(a == b)
    False
    """

    seed: int
    name: str
    device: torch.device = _CPU

    def generator(self, block: int) -> torch.Generator:
        """A fresh generator that stands at the start of a block."""
        return _generator(self._key(block), self.device)

    def lent(self, block: int, words: int = _WORDS) -> torch.Generator:
        """A generator that stands at the start of a block, and is this thread's own until the next one is lent.

        Args:
            block: The block.
            words: How many words will be drawn from it at most; only so many are made, if it is a CPU's.
        """
        if self.device.type == "cpu":
            return lent(self.seed, self.name, block, words)
        return _desk.lend_on(self.device, self._key(block))

    def _key(self, block: int) -> str:
        return _key(self.seed, self.name, block)


def lent(seed: int, name: str, block: int, words: int) -> torch.Generator:
    """What a `Stream` of the CPU lends, without the stream, which costs as much as a few numbers."""
    return _desk.lend(_key(seed, name, block), min(words, _WORDS))


def _key(seed: int, name: str, block: int) -> str:
    return f"{_PREFIX}{seed}|{name}|{block}"


def _generator(key: str, device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if device.type != "cpu":
        return generator.manual_seed(_seed_of_64_bits(key))
    # `manual_seed` would keep 32 bits only: among 100,000 blocks two would likely be equal.
    return generator.set_state(_cpu_state(hashlib.shake_128(key.encode()).digest(4 * _WORDS)))


def _seed_of_64_bits(key: str) -> int:
    return int.from_bytes(hashlib.shake_128(key.encode()).digest(8), "little")


def _cpu_state(words: bytes) -> Tensor:
    state, slots = _blank_state()
    slots[::2] = memoryview(words).cast("I")
    return state


def _blank_state() -> tuple[Tensor, memoryview]:
    """A state of which the words are still to be put, one into every other item of the memory."""
    state = bytearray(_STATE_BYTES)
    start = len(_HEADER)
    state[:start] = _HEADER
    return torch.frombuffer(state, dtype=torch.uint8), memoryview(state)[start : start + 8 * _WORDS].cast("I")


class _Desk(threading.local):
    """For each thread a generator of every device, and a state to set that of the CPU to: to make them takes longer
    than a small draw.
    """  # noqa: D205 - one sentence

    def __init__(self) -> None:
        self._generator = torch.Generator(_CPU)
        self._elsewhere: dict[torch.device, torch.Generator] = {}
        self._state, self._slots = _blank_state()

    def lend(self, key: str, words: int) -> torch.Generator:
        # What stands behind these words, from before, is never drawn.
        self._slots[: 2 * words : 2] = memoryview(hashlib.shake_128(key.encode()).digest(4 * words)).cast("I")
        return self._generator.set_state(self._state)

    def lend_on(self, device: torch.device, key: str) -> torch.Generator:
        if device not in self._elsewhere:
            self._elsewhere[device] = torch.Generator(device)
        return self._elsewhere[device].manual_seed(_seed_of_64_bits(key))


_desk = _Desk()


@contextmanager
def isolated(seed: int, name: str, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Seeds torch's default generators for a module's own code, and puts them back afterwards.

    Args:
        seed: The seed of the initialisation.
        name: The qualified name of the module.
        devices: Devices whose default generators are seeded as well as the CPU's.
    """
    key = f"{_PREFIX}{seed}|{name}|init_weights"
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.set_rng_state(_generator(key, _CPU).get_state())
        for device in {device for device in devices if device.type not in ("cpu", "meta")}:
            module = torch.get_device_module(device)
            stack.callback(module.set_rng_state, module.get_rng_state(device), device)
            module.set_rng_state(_generator(key, device).get_state(), device)
        yield


def draw_seed() -> int:
    """A seed of 63 bits, by one draw from torch's default generator of the CPU."""
    return int(torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu"))
