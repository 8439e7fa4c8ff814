"""Real processes for the tests: ranks of one job and scripts, each ended at a deadline.

Ranks are forked from a process that has imported everything (``tests/forks.py``); scripts start anew.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast, overload

from tests.forks import clean_context, forget_the_parent

__all__ = ["LOOPBACK", "Outcome", "find_free_port", "run_ranks", "run_script"]

T = TypeVar("T")

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"

GRACE = 5.0
"""Seconds that the other ranks have to report after the first failure."""

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Torch's own default, longer than any deadline: a rank that waits in a collective shows as hanging."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How one rank ended.

    Attributes:
        rank: The rank.
        value: What the target returned; ``None`` if it did not return.
        error: The name of the class of the exception; ``"Hang"`` or ``"Exit"`` if the process had to be killed or died;
            empty if the target returned.
        message: ``str()`` of the exception.
        traceback: The traceback; of a rank that hung, the stack of every thread.
        seconds: From the call of the target to its end.
    """

    rank: int
    value: T | None = None
    error: str = ""
    message: str = ""
    traceback: str = ""
    seconds: float = 0.0


def find_free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@overload
def run_ranks(
    world_size: int,
    target: Callable[..., T],
    *args: object,
    deadline: float = ...,
    process_group: bool = ...,
    expect_errors: Literal[False] = ...,
) -> list[T]: ...


@overload
def run_ranks(
    world_size: int,
    target: Callable[..., T],
    *args: object,
    deadline: float = ...,
    process_group: bool = ...,
    expect_errors: Literal[True],
) -> list[Outcome[T]]: ...


def run_ranks(
    world_size: int,
    target: Callable[..., T],
    *args: object,
    deadline: float = 60,
    process_group: bool = True,
    expect_errors: bool = False,
) -> list[T] | list[Outcome[T]]:
    """Call ``target(*args)`` in each of `world_size` new processes that form one job on this machine.

    Every process lives on until all have reported, so that no rank learns of another's failure from a closed socket.
    RANK, LOCAL_RANK, WORLD_SIZE and the like are set: a ``Trainer(strategy="ddp", devices=world_size)`` inside takes
    part in the job instead of starting processes of its own.

    Args:
        world_size: The number of processes.
        target: A function at the top level of a module. It reads its rank from ``torch.distributed``.
        *args: Its arguments, pickled.
        deadline: Seconds after which whatever still runs is killed.
        process_group: Whether the default group (gloo) is made before the call and destroyed after it.
        expect_errors: Whether to return outcomes, failures included, instead of raising at the first failure.

    Returns:
        What each rank returned, in the order of ranks; outcomes with `expect_errors`.

    Raises:
        AssertionError: A rank raised, died or hung; the traceback of each is in the message.
    """
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": LOOPBACK,
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_port()),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(world_size),
    }
    job = pickle.dumps((target, args))
    with (
        tempfile.TemporaryDirectory() as folder,
        _started(world_size, environment, job, process_group, folder) as ranks,
    ):
        outcomes = _collect(ranks, time.monotonic() + deadline, GRACE if not expect_errors else deadline)
        for rank in set(range(world_size)) - set(outcomes):
            outcomes[rank] = _unfinished(rank, ranks[rank][0], Path(folder), deadline)
    ordered: list[Outcome[T]] = [outcomes[rank] for rank in range(world_size)]
    if expect_errors:
        return ordered
    failed = [outcome for outcome in ordered if outcome.error]
    if failed:
        told = "\n".join(f"--- rank {o.rank}: {o.error} {o.message}\n{o.traceback}" for o in failed)
        raise AssertionError(f"{len(failed)} of {world_size} ranks failed\n{told}")
    return [cast("T", outcome.value) for outcome in ordered]


def run_script(
    command: Sequence[str | Path],
    *,
    deadline: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run this interpreter with the arguments `command` and end it, and all that it started, at the deadline.

    Args:
        command: A script and its arguments.
        deadline: Seconds until everything is killed.
        env: Variables on top of those of this process.
        cwd: Where it runs.

    Returns:
        What it wrote, standard error included.

    Raises:
        AssertionError: It failed or did not end in time; its output is in the message.
    """
    process = subprocess.Popen(
        [sys.executable, "-u", *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        _kill_group(process.pid)
        output, _ = process.communicate()
        raise AssertionError(f"{command} did not end within {deadline} s\n{output}") from None
    finally:
        _kill_group(process.pid)
        process.wait()
    if process.returncode:
        raise AssertionError(f"{command} ended with {process.returncode}\n{output}")
    return output


@contextlib.contextmanager
def _started(
    world_size: int, environment: dict[str, str], job: bytes, process_group: bool, folder: str
) -> Iterator[list[tuple[BaseProcess, Connection]]]:
    """Start the ranks; on leaving, kill them all with everything that they started."""
    context = clean_context()
    ranks: list[tuple[BaseProcess, Connection]] = []
    try:
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            process: BaseProcess = context.Process(target=_be_rank, args=(own, job, process_group, folder, theirs))
            process.start()
            theirs.close()
            ranks.append((process, ours))
        yield ranks
    finally:
        for process, ours in ranks:
            ours.close()
            if process.pid is not None:
                _kill_group(process.pid)
            process.kill()
            process.join()


def _collect(ranks: list[tuple[BaseProcess, Connection]], end: float, grace: float) -> dict[int, Outcome[Any]]:
    """The outcomes that arrive in time, then the word to all ranks that they may go."""
    outcomes: dict[int, Outcome[Any]] = {}
    waiting = {ours: rank for rank, (_, ours) in enumerate(ranks)}
    while waiting and (left := end - time.monotonic()) > 0:
        for ready in connection.wait(list(waiting), left):
            assert isinstance(ready, Connection)
            rank = waiting.pop(ready)
            try:
                outcomes[rank] = pickle.loads(ready.recv_bytes())  # noqa: S301  # from a process of our own
            except EOFError:
                ranks[rank][0].join(1)
                code = ranks[rank][0].exitcode
                outcomes[rank] = Outcome(rank, error="Exit", message=f"the process died with code {code}")
            if outcomes[rank].error:
                end = min(end, time.monotonic() + grace)
    if not waiting:
        for process, ours in ranks:
            with contextlib.suppress(OSError):
                ours.send_bytes(b"go")
            process.join(GRACE)
    return outcomes


def _unfinished(rank: int, process: BaseProcess, folder: Path, deadline: float) -> Outcome[Any]:
    """The outcome of a rank that did not report: the stacks of its threads, which it is asked for now."""
    stacks = folder / f"{rank}.txt"
    if stacks.exists() and process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGUSR1)
        patience = time.monotonic() + 2
        while not stacks.stat().st_size and time.monotonic() < patience:
            time.sleep(0.02)
        time.sleep(0.1)
    text = stacks.read_text() if stacks.exists() else "(it had not started yet)"
    return Outcome(
        rank, error="Hang", message=f"no result within {deadline} s, or after another rank failed", traceback=text
    )


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _be_rank(environment: dict[str, str], job: bytes, process_group: bool, folder: str, parent: Connection) -> None:
    """The life of one rank's process."""
    os.setsid()
    forget_the_parent(environment)
    rank = int(environment["RANK"])
    released = threading.Event()
    threading.Thread(target=_follow, args=(parent, released), daemon=True).start()
    with (Path(folder) / f"{rank}.txt").open("w") as stacks:
        faulthandler.register(signal.SIGUSR1, stacks)
        parent.send_bytes(_report(rank, job, process_group))
        released.wait()


def _follow(parent: Connection, released: threading.Event) -> None:
    """Wait for the parent's word; a parent that is gone takes this process with it."""
    try:
        parent.recv_bytes()
    except (EOFError, OSError):
        os._exit(1)
    released.set()


def _report(rank: int, job: bytes, process_group: bool) -> bytes:
    """Do the job; its pickled outcome."""
    start = time.monotonic()
    try:
        import torch  # noqa: PLC0415  # not before the environment is set
        from torch import distributed  # noqa: PLC0415  # the same

        torch.set_num_threads(1)
        if process_group:
            distributed.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
        target, args = pickle.loads(job)  # noqa: S301  # from a process of our own
        start = time.monotonic()
        value = target(*args)
        seconds = time.monotonic() - start
        return pickle.dumps(Outcome(rank, value=value, seconds=seconds))
    except BaseException as error:  # noqa: BLE001  # whatever ended the rank is what the test wants to know
        seconds = time.monotonic() - start
        told = Outcome[None](rank, None, type(error).__name__, str(error), traceback.format_exc(), seconds)
        return pickle.dumps(told)
