"""Public names that are found when they are asked for."""

from __future__ import annotations

import sys
from collections import Counter
from types import ModuleType

import pytest

import lightning_init
from lightning_init.lazily import lazily


def test_every_public_name_is_there() -> None:
    names: dict[str, object] = {}
    exec("from lightning_init import *", names)  # noqa: S102  # as users write it, where only a module may
    assert set(lightning_init.__all__) <= set(names)
    assert dir(lightning_init) == sorted(lightning_init.__all__)
    with pytest.raises(AttributeError, match="module 'lightning_init' has no attribute 'Kaiming'"):
        lightning_init.Kaiming  # noqa: B018  # asking is what is tested


@pytest.mark.parametrize(("heavy", "is_there"), [("no_such_package", False), ("torch", True)])
def test_what_costs_nothing_is_there_at_once(heavy: str, is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("package")
    monkeypatch.setitem(sys.modules, "package", package)
    find = lazily("package", {"Counter": ("collections", heavy)})
    assert ("Counter" in vars(package)) is is_there
    assert find("Counter") is Counter
    assert vars(package)["Counter"] is Counter
