"""A report in MLflow."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_info

from lightning_init.loggers.material import Content, Material, Writers, tagged
from lightning_init.text import some

__all__ = ["WRITERS", "allowed"]

STATISTICS = ("mean", "std")
"""What is a metric of each parameter; the file of all statistics costs a hundredth of the time of a metric each."""

LONGEST = 250
"""Of how many characters the name of a metric may have."""


def _scalars(logger: MLFlowLogger, material: Material) -> None:
    names = allowed((name for name, _ in material.scalars), LONGEST - len(tagged(logger, "init//mean")))
    if changed := [f"{name!r} is {new!r}" for name, new in names.items() if name != new]:
        rank_zero_info(f"MLflow does not allow the names of {len(changed)} parameters: {some(changed)}")
    metrics = {
        f"init/{names[name]}/{key}": value for (name, key), value in material.scalars.items() if key in STATISTICS
    }
    logger.log_metrics({**material.totals, **metrics}, step=0)


def allowed(names: Iterable[str], longest: int) -> dict[str, str]:
    """Names that MLflow allows in a metric, and that stay distinct.

    Args:
        names: The names of parameters.
        longest: How many characters a name may have.

    Returns:
        What each name becomes: the same, wherever that is possible.
    """
    given = list(dict.fromkeys(names))
    found: dict[str, str] = {}
    # A name that stays takes precedence over one that becomes equal to it.
    for name in sorted(given, key=lambda name: name != _plain(name, longest)):
        new, number, taken = _plain(name, longest), 2, set(found.values())
        while new in taken:
            new, number = _plain(name, longest - len(f"_{number}")) + f"_{number}", number + 1
        found[name] = new
    return {name: found[name] for name in given}


def _plain(name: str, longest: int) -> str:
    # What Lightning lets through; and no slash, as `a/../b` would be refused.
    name = re.sub(r"[^a-zA-Z0-9_. -]", "_", name)
    # The end of a long name tells more than its beginning.
    return name if len(name) <= longest else "_" + name[1 - longest :]


def _table(logger: MLFlowLogger, material: Material) -> None:
    _files("table")(logger, material)
    logger.experiment.log_text(logger.run_id, material.page, "init/init.md")


def _files(content: Content) -> Callable[[MLFlowLogger, Material], None]:
    def write(logger: MLFlowLogger, material: Material) -> None:
        with tempfile.TemporaryDirectory() as made:
            for path in material.write(content, Path(made)):
                logger.experiment.log_artifact(logger.run_id, str(path), "init")

    return write


WRITERS: Writers = {
    "table": _table,
    "scalars": _scalars,
    "figure": _files("figure"),
    "histograms": _files("histograms"),
    "artifact": _files("artifact"),
}
