"""The callback and `init_weights` in real jobs: equal weights, who reads a checkpoint when, who speaks, launchers."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from lightning_init import InitWarning, InitWeightsCallback, init_weights
from lightning_init.distributed import rank
from lightning_init.loggers import CONTENTS
from lightning_init.settings import Sync
from tests.distributed.harness import run_ranks
from tests.distributed.models import LitNet, RecordingDDP, TimedInit, Told, digests, fit, told
from tests.distributed.scripts import run_function

UNTOUCHED = {"plain.weight", "plain.bias"}
"""What no rule of `LitNet` writes."""


@dataclass(frozen=True)
class Start:
    """What a run started from, on one rank.

    Attributes:
        digests: The bits of every parameter behind the initialisation; of a fit, before DDP sends rank zero's.
        after: The same behind the fit.
        rows: Name, initializer and source of every row of the report.
        seed: The seed that the report names.
        statistics: Those of every row of the report.
    """

    digests: dict[str, str]
    after: dict[str, str]
    rows: list[tuple[str, str | None, str | None]]
    seed: int | None
    statistics: list[Mapping[str, float] | None]


# Each of these runs on every rank, and, to compare with, in a single process.


def fitted(callback: InitWeightsCallback, module: LitNet | None = None) -> Start:
    module = module or LitNet()
    if torch.distributed.is_initialized():
        strategy = RecordingDDP(process_group_backend="gloo")
        fit(module, callback, strategy, torch.distributed.get_world_size())
        before = strategy.before
    else:
        fit(module, callback)
        before = digests(module)
    assert callback.report is not None
    rows = [(row.name, row.initializer, row.source) for row in callback.report]
    return Start(before, digests(module), rows, callback.report.seed, [row.statistics for row in callback.report])


def with_seed_everything() -> Start:
    seed_everything(3)
    return fitted(InitWeightsCallback(log=()))


def with_another_seed_everywhere() -> Start:
    seed_everything(3 + rank())
    return fitted(InitWeightsCallback(log=()))


def with_a_seed_of_the_callback() -> Start:
    torch.manual_seed(100 + rank())
    return fitted(InitWeightsCallback(seed=5, log=()))


def without_a_seed() -> Start:
    torch.manual_seed(100 + rank())
    return fitted(InitWeightsCallback(log=()))


def standalone(seed: int | None) -> Start:
    torch.manual_seed(100 + rank())
    module = LitNet()
    report = init_weights(module, seed=seed)
    rows = [(row.name, row.initializer, row.source) for row in report]
    return Start(digests(module), digests(module), rows, report.seed, [row.statistics for row in report])


def standalone_with_a_seed() -> Start:
    return standalone(5)


def standalone_without_a_seed() -> Start:
    return standalone(None)


RUNS = (
    with_seed_everything,
    with_another_seed_everywhere,
    with_a_seed_of_the_callback,
    without_a_seed,
    standalone_with_a_seed,
    standalone_without_a_seed,
)


def in_an_environment_of_its_own(run: Callable[[], Start]) -> Start:
    """`seed_everything` leaves its seed in the environment."""
    before = dict(os.environ)
    try:
        return run()
    finally:
        os.environ.clear()
        os.environ.update(before)


# Who reads a checkpoint, and when.


def backbone() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return {
        "conv.weight": torch.randn(4, 1, 3, generator=generator),
        "conv.bias": torch.randn(4, generator=generator),
        "head.weight": torch.randn(6, 24, generator=generator),
    }


def loads_backbone(module: LitNet) -> bool:
    return all(torch.equal(module.get_parameter(key), value) for key, value in backbone().items())


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@dataclass(frozen=True)
class Reading:
    """How a checkpoint was read on one rank.

    Attributes:
        right: The weights are those of the file, bit for bit.
        opened: When Python opened the file.
        events: When the initializer opened and read: what, start, end.
    """

    right: bool
    opened: list[float]
    events: list[tuple[str, float, float]]


def read_checkpoint(folder: Path, sync: Sync) -> Reading:
    """A fit from a checkpoint; each rank looks for it in a folder of its own."""
    opened: list[float] = []

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith("backbone.pth"):
            opened.append(time.monotonic())

    sys.addaudithook(note)
    TimedInit.delay = 0.1 if rank() == 0 else 0.0
    TimedInit.events.clear()
    module = LitNet([{"type": TimedInit, "checkpoint": "backbone.pth"}])
    with in_folder(folder / f"rank{rank()}"):
        fitted(InitWeightsCallback(log=(), sync=sync), module)
    return Reading(loads_backbone(module), opened, list(TimedInit.events))


# Who speaks.


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


@dataclass(frozen=True)
class Heard:
    """What one rank said of the initialisation.

    Attributes:
        warned: Its `InitWarning`s.
        lines: What it logged for people.
        printed: What it printed.
        files: What it wrote for the loggers.
    """

    warned: list[str]
    lines: list[str]
    printed: str
    files: list[str]


def listen(folder: Path, *, trainer: bool) -> Heard:
    """An initialisation with something to warn of and something to tell; without a Trainer, a second one as well."""
    handler = Lines()
    loggers = [logging.getLogger(name) for name in ("lightning_init", "lightning.pytorch.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    folder = folder / f"{trainer}{rank()}"
    module = LitNet([{"type": "Normal", "layer": "Linaer"}])
    printed = io.StringIO()
    try:
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(printed):
            warnings.simplefilter("always")
            if trainer:
                callback = InitWeightsCallback(seed=5, log=CONTENTS)
                strategy = RecordingDDP(process_group_backend="gloo")
                loggers_of_run = [CSVLogger(folder, "csv"), TensorBoardLogger(folder, "board")]
                fit(module, callback, strategy, torch.distributed.get_world_size(), logger=loggers_of_run)
            else:
                init_weights(module, seed=5)
                init_weights(module, seed=5)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    return Heard(
        [str(warning.message) for warning in warned if issubclass(warning.category, InitWarning)],
        [line for line in handler.kept if "constructor's values" in line],
        printed.getvalue(),
        sorted(path.name.partition(".tfevents")[0] for path in folder.rglob("*") if path.is_file()),
    )


class Closed(io.StringIO):
    """A console that takes nothing."""

    def write(self, text: str) -> int:
        raise OSError("the console is closed")


def speak_into_nothing() -> Told:
    """A fit whose table rank zero cannot print."""
    console = Closed() if rank() == 0 else io.StringIO()
    with contextlib.redirect_stdout(console):
        return told(lambda: fitted(InitWeightsCallback(seed=5, log="table")))


@dataclass(frozen=True)
class Job:
    """All of this, on one rank."""

    starts: dict[str, Start]
    in_turn: Reading
    broadcast: Reading
    heard: Heard
    heard_standalone: Heard
    unprinted: Told


def run_job(folder: Path) -> Job:
    starts = {run.__name__: in_an_environment_of_its_own(run) for run in RUNS}
    return Job(
        starts,
        read_checkpoint(folder / "shared", "rank_zero_first"),
        read_checkpoint(folder / "only", "broadcast"),
        listen(folder, trainer=True),
        listen(folder, trainer=False),
        speak_into_nothing(),
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """What two ranks did, in one pair of processes."""
    folder = tmp_path_factory.mktemp("job")
    for name in ("shared/rank0", "shared/rank1", "only/rank0", "only/rank1"):
        (folder / name).mkdir(parents=True)
        if name != "only/rank1":
            torch.save(backbone(), folder / name / "backbone.pth")
    return run_ranks(2, run_job, folder, deadline=100)


def written(digests: dict[str, str]) -> dict[str, str]:
    return {name: bits for name, bits in digests.items() if name not in UNTOUCHED}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_ranks_start_from_equal_weights(job: list[Job], run: Callable[[], Start]) -> None:
    zero, one = (of_rank.starts[run.__name__] for of_rank in job)
    assert written(zero.digests) == written(one.digests)
    assert (zero.rows, zero.seed) == (one.rows, one.seed)
    assert {name for name, _, source in zero.rows if source is None} == UNTOUCHED


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_ranks_start_from_the_weights_of_a_single_process(job: list[Job], run: Callable[[], Start]) -> None:
    """Without a seed as well, if its generator stands where that of rank zero stood."""
    alone = in_an_environment_of_its_own(run)
    for of_rank in job:
        ranked = of_rank.starts[run.__name__]
        assert written(ranked.digests) == written(alone.digests)
        assert (ranked.rows, ranked.seed) == (alone.rows, alone.seed)


@pytest.mark.parametrize("run", RUNS[:4], ids=lambda run: run.__name__)
def test_every_rank_measures_its_report_behind_ddp(job: list[Job], run: Callable[[], Start]) -> None:
    zero, one = (of_rank.starts[run.__name__] for of_rank in job)
    assert None not in one.statistics
    # Those of ``plain`` as well, which DDP makes equal.
    assert zero.statistics == one.statistics


def test_rank_zeros_seed_counts(job: list[Job]) -> None:
    for of_rank in job:
        assert of_rank.starts["with_another_seed_everywhere"].seed == 3
        assert written(of_rank.starts["with_another_seed_everywhere"].digests) == written(
            of_rank.starts["with_seed_everything"].digests
        )


def test_what_no_rule_writes_is_left_to_the_constructors_and_to_ddp(job: list[Job]) -> None:
    zero, one = (of_rank.starts["without_a_seed"] for of_rank in job)
    # So the ranks did have different generators, and what was compared above is not what DDP made equal.
    assert zero.digests["plain.weight"] != one.digests["plain.weight"]
    assert zero.after == one.after == zero.digests


def test_rank_zero_opens_and_reads_a_checkpoint_before_rank_one(job: list[Job]) -> None:
    zero, one = (of_rank.in_turn for of_rank in job)
    assert zero.right
    assert one.right
    for what, times in (("open", 1), ("read", len(backbone()))):
        first, second = ([event[1:] for event in reading.events if event[0] == what] for reading in (zero, one))
        assert (len(first), len(second)) == (times, times)
        assert max(end for _, end in first) < min(start for start, _ in second), what
    # Not only by the initializer's account: Python noted every opening of a file.
    opening = next(end for what, _, end in zero.events if what == "open")
    assert zero.opened
    assert min(zero.opened) < opening < min(one.opened)


def test_with_broadcast_rank_zero_alone_opens_the_file(job: list[Job]) -> None:
    zero, one = (of_rank.broadcast for of_rank in job)
    # In the folder of rank one there is no such file.
    assert zero.right
    assert one.right
    assert [what for what, *_ in zero.events].count("open") == 1
    assert zero.opened
    assert "open" not in [what for what, *_ in one.events]
    assert not one.opened


def test_only_rank_zero_warns_tells_and_logs(job: list[Job]) -> None:
    zero, one = (of_rank.heard for of_rank in job)
    assert ["LitNet has no 'Linaer'" in warning for warning in zero.warned] == [True]
    assert len(zero.lines) == 1
    assert "head.weight" in zero.printed
    assert zero.files == [
        "events.out",
        "hparams.yaml",
        "init.png",
        "init_histograms_1.png",
        "init_report.json",
        "init_stats.csv",
        "metrics.csv",
    ]
    assert (one.warned, one.lines, one.printed, one.files) == ([], [], "", [])


def test_only_rank_zero_warns_and_tells_without_lightning(job: list[Job]) -> None:
    zero, one = (of_rank.heard_standalone for of_rank in job)
    unknown, again = zero.warned
    assert "LitNet has no 'Linaer'" in unknown
    assert "is initialised already" in again
    assert len(zero.lines) == 1
    assert zero.printed == ""
    assert (one.warned, one.lines, one.printed, one.files) == ([], [], "", [])


def test_a_table_that_rank_zero_cannot_print_ends_all_ranks(job: list[Job]) -> None:
    zero, one = (of_rank.unprinted for of_rank in job)
    assert (zero.error, zero.message) == ("OSError", "the console is closed")
    assert one.error == "RankError"
    assert one.message.startswith("rank 0 failed in 'the log': OSError: the console is closed")


# Launchers, each in a process of its own.


def launched(callback: InitWeightsCallback, strategy: str) -> dict[str, Any]:
    module = LitNet()
    fit(module, callback, strategy, 2)
    return {"digests": written(digests(module)), "has_report": callback.report is not None}


def processes_that_return() -> dict[str, dict[str, Any]]:
    """Launchers whose main process trains nothing itself: this one, which is no rank of a job for them."""
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    return {strategy: launched(InitWeightsCallback(seed=5, log=()), strategy) for strategy in ("ddp_fork", "ddp_spawn")}


def script_of_ddp(folder: str) -> None:
    """The launcher that runs the script again; the second fit finds no checkpoint, and a third does not catch it."""
    good = launched(InitWeightsCallback(seed=5, log=()), "ddp")

    def bad() -> None:
        callback = InitWeightsCallback(log=())
        fit(LitNet([{"type": "Pretrained", "checkpoint": "nowhere.pth"}]), callback, "ddp", 2)

    found = {"good": good, "bad": asdict(told(bad))}
    (Path(folder) / f"{rank()}.json").write_text(json.dumps(found), encoding="utf-8")
    bad()


def test_fork_and_spawn_return_the_declared_weights_and_no_report() -> None:
    alone = written(standalone_with_a_seed().digests)
    expected = {"digests": alone, "has_report": False}
    (found,) = run_ranks(1, processes_that_return, process_group=False, deadline=100)
    assert found == {"ddp_fork": expected, "ddp_spawn": expected}


@pytest.mark.usefixtures("loopback")
def test_the_script_launcher_initialises_every_process_and_ends_them_all(tmp_path: Path) -> None:
    alone = written(standalone_with_a_seed().digests)
    with pytest.raises(AssertionError, match="ended with 1") as failure:
        run_function(script_of_ddp, tmp_path, deadline=100)
    zero, one = (json.loads((tmp_path / f"{i}.json").read_text(encoding="utf-8")) for i in range(2))
    assert zero["good"] == one["good"] == {"digests": alone, "has_report": True}
    for found in (zero["bad"], one["bad"]):
        assert found["error"] == "CheckpointError"
        assert found["message"].startswith("LitNet.init_cfg[0].checkpoint: no such file: 'nowhere.pth'")
        assert found["message"].endswith("[on rank 0]")
        assert found["seconds"] < 10
    # The last fit catches nothing: both processes end with it.
    assert str(failure.value).count(f"CheckpointError: {zero['bad']['message']}") == 2
