"""A folder with a user's code in it, and the command run within this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from lightning_init.cli.main import main

Command: TypeAlias = Callable[..., tuple[int, str, str]]
"""Runs a command line; gives its exit status, its output and its errors."""

NETS = '''
from __future__ import annotations

import lightning as L
import torch
from torch import nn


class LitNet(L.LightningModule):
    """A net of Linears.

    Args:
        hidden: How wide it is.
        depth: How many of them there are.
    """

    init_cfg = [
        dict(type="Kaiming", layer="Linear", override=dict(name="head", type="Normal", std=0.01, bias_prob=0.01)),
    ]

    def __init__(self, hidden: int, depth: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(*[nn.Linear(hidden, hidden) for _ in range(depth)])
        self.head = nn.Linear(hidden, 2)
        assert self.head.weight.is_meta


class Wrapper(nn.Module):
    init_cfg = dict(type="Constant", layer="Linear", val=1)

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        assert inner.weight.is_meta


class Late(L.LightningModule):
    init_cfg = dict(type="Constant", layer="Linear", val=1)

    def setup(self, stage):
        self.of_setup = nn.Linear(1, 1)

    def configure_model(self):
        self.of_configure_model = nn.Linear(1, 1)


class Bound(Late):
    def configure_model(self):
        self.width = self.trainer.world_size


class Frozen(nn.Module):
    init_cfg = [dict(type="Normal", layer="Linear"), dict(type="Constant", name="constant", val=1)]

    def __init__(self):
        super().__init__()
        self.random = nn.Linear(1, 1).requires_grad_(False)
        self.constant = nn.Linear(1, 1).requires_grad_(False)
        self.written = OfMethod()


class OfMethod(nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
        self.requires_grad_(False)

    def init_weights(self):
        nn.init.ones_(self.weight)


class Numbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.drops = [rate.item() for rate in torch.linspace(0, 1, 3)]
        self.linear = nn.Linear(1, 1)


class Raises(nn.Module):
    def __init__(self, size: int = 0):
        super().__init__()
        self.share = divide(1, size)


class NoParameters(nn.Module):
    pass


def divide(one, other):
    return one / other


def make(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, classes))


def make_nothing():
    return 3


class Other:
    pass


net = nn.Linear(1, 1)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with ``nets.py`` in it; what a command imports from there is forgotten afterwards."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    path, known = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in that folder."""

    def command(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(argv)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command
