"""Fixtures that any test may ask for, and what no test may leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before torch is imported, here and in every process below: threads of OpenMP that wait would otherwise burn the
# processors that other tests need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from torch import distributed

from tests.distributed.harness import LOOPBACK, find_free_port


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """Put back what Lightning and torch keep per process: the environment, the process group, the default dtype."""
    environment = dict(os.environ)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    return find_free_port()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch, free_port: int) -> int:
    """Make the process groups of this test, and of the processes it starts, meet on the loopback interface.

    Returns:
        Their port.
    """
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", LOOPBACK)
    return free_port
