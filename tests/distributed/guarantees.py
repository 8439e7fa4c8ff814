"""What every job has to come to that ran `tests.distributed.scripts.attempts`."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_init import init_weights
from tests.distributed.models import LitNet, digests
from tests.distributed.scripts import Found

__all__ = ["assert_guarantees"]

PROMPTLY = 10.0
"""Seconds in which every rank has to end; one that waits would do so for half an hour."""


def assert_guarantees(ranks: Sequence[Found]) -> None:
    """The ranks agree with each other and with a single process, and an error on one is raised on all."""
    alone = LitNet()
    init_weights(alone, seed=5)
    expected = {name: bits for name, bits in digests(alone).items() if not name.startswith("plain.")}
    for found in ranks:
        assert not found["seeded"].error, found["seeded"]
        assert found["seeded"].value == found["afterwards"].value == expected
        assert found["unseeded"].value == ranks[0]["unseeded"].value is not None
        assert found["unseeded"].value != expected
        assert all(outcome.seconds < PROMPTLY for outcome in found.values())
        missing, other, code = found["a missing file"], found["another config"], found["code that fails"]
        assert missing.error == "CheckpointError"
        assert missing.message.startswith("init_cfg.checkpoint: no such file")
        assert missing.message.endswith("[on rank 0]")
        assert other.error == "RankError"
        assert "differs between ranks for conv.weight (rank" in other.message
        if found is ranks[1]:
            assert (code.error, code.message) == ("ZeroDivisionError", "by zero")
        else:
            assert code.error == "RankError"
            assert code.message.startswith("rank 1 failed in 'the initialisation': ZeroDivisionError: by zero")
