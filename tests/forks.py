"""Processes that start at once: forked from one that has imported everything, and has done nothing else.

multiprocessing starts that one when it is first needed, once for a process of pytest; it has one thread, no process
group and no CUDA context, and it ends with whoever started it. Its children share its imports and its hash seed; the
tests that start scripts (`run_script`) show what holds in interpreters of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path

import pytest

__all__ = ["clean_context", "forget_the_parent"]

ROOT = Path(__file__).parents[1]

IMPORTED = (
    "pytest",
    "lightning.pytorch",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "lightning_init.checkpoint.sources.download",
    "tests.distributed.sharded",
    "tests.distributed.writers",
)


def clean_context(also: Iterable[str] = ()) -> ForkServerContext | SpawnContext:
    """What starts processes with all of the library imported.

    Args:
        also: More modules to import; counts before the first process is started.

    Returns:
        A context of multiprocessing. Where the libraries of the system do not survive a fork (macOS), one whose
        processes import everything anew.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, *also])
    with pytest.MonkeyPatch.context() as patch:
        # With more than one thread for OpenMP, NumPy's BLAS would start some at its import.
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        forkserver.ensure_running()
    return context


def forget_the_parent(environment: Mapping[str, str]) -> None:
    """Give a process of `clean_context` what a new interpreter would have taken from its environment or made up.

    Args:
        environment: All variables.
    """
    os.environ.clear()
    os.environ.update(environment)
    import numpy as np  # noqa: PLC0415  # not before the environment is set
    import torch  # noqa: PLC0415  # the same
    from lightning.fabric.utilities.rank_zero import rank_zero_only  # noqa: PLC0415  # the same

    rank_zero_only.rank = int(environment.get("RANK", 0))  # type: ignore[attr-defined]  # Lightning sets it so
    torch.default_generator.seed()
    np.random.seed()  # noqa: NPY002  # the global generator is what libraries draw from
