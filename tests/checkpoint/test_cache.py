"""Two jobs, killed jobs, full and read-only disks."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from lightning_init import distributed
from lightning_init.checkpoint.sources import cache as caches
from lightning_init.checkpoint.sources import download
from lightning_init.checkpoint.sources.locate import locate
from lightning_init.errors import CheckpointError
from tests.checkpoint.servers import Answer, Web, web_server
from tests.forks import clean_context
from tests.mounts import mounted

BODY = bytes(range(256)) * 4000
HALF = len(BODY) // 2


def job(url: str, home: Path, told: Connection, terminal: str | None, rank: int) -> None:
    """What a process does: sends what is logged, and the path at last."""
    # A shell lets what it starts in the background ignore Ctrl-C, and so would all processes below.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.update(TORCH_HOME=str(home), NO_PROXY="*")
    if terminal:
        sys.stderr = open(terminal, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lives
    handler = logging.Handler()
    handler.emit = lambda record: told.send(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("lightning_init")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    distributed.rank = lambda: rank
    told.send(locate(url))


@dataclass
class Job:
    """A process that fetches, and what it told so far."""

    process: Any
    told: Connection

    def until(self, word: str | type) -> Any:
        """The next message with that word, or of that type."""
        while self.told.poll(60):
            message = self.told.recv()
            if isinstance(message, word) if isinstance(word, type) else word in str(message):
                return message
        raise AssertionError(f"nothing about {word!r} in a minute")


@contextmanager
def started(url: str, home: Path, terminal: str | None = None, rank: int = 0) -> Iterator[Job]:
    context = clean_context()
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=job, args=(url, home, theirs, terminal, rank), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Job(process, ours)
    finally:
        process.kill()
        process.join(30)
        process.close()
        ours.close()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "PAUSES", (0.01,) * 4)
    with web_server() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def wait_for(there: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.02)


def message(url: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(url)
    return str(caught.value)


def temporaries(home: Path) -> list[str]:
    return [path.name for path in home.rglob("*") if path.is_file() and path.name != ".lock"]


def test_two_jobs_download_once(web: Web, home: Path) -> None:
    hold = threading.Event()
    url = web.serve("/w.pth", Answer(BODY, cut=HALF, hold=hold))
    with started(url, home) as one, started(url, home) as two:
        assert web.sent.wait(60)
        said = sorted(each.until(str).partition(" '")[0] for each in (one, two))
        hold.set()
        found = [each.until(Path) for each in (one, two)]
    assert said == ["another process fetches", "downloading"]
    assert found == [home / "hub" / "checkpoints" / "w.pth"] * 2
    assert found[0].read_bytes() == BODY
    assert web.asked("/w.pth") == 1


def test_two_threads_download_once(web: Web, home: Path) -> None:
    url = web.serve("/w.pth", Answer(BODY))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(locate(url))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [home / "hub" / "checkpoints" / "w.pth"] * 8
    assert web.asked("/w.pth") == 1


def test_a_killed_download_is_continued(web: Web, home: Path) -> None:
    url = web.serve(
        "/w.pth", Answer(BODY, cut=HALF, hold=threading.Event(), etag='"1"'), Answer(BODY, ranges=True, etag='"1"')
    )
    with started(url, home) as killed:
        killed.until("downloading")
        wait_for(lambda: any(path.stat().st_size == HALF for path in home.rglob("partial")))
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.join(30)
        assert killed.process.exitcode == -signal.SIGKILL
    assert not (home / "hub" / "checkpoints" / "w.pth").exists()
    assert locate(url).read_bytes() == BODY
    assert web.requests[1].headers["Range"] == f"bytes={HALF}-"
    assert sorted(temporaries(home)) == ["origin.json", "w.pth"]


def test_an_interrupted_download(web: Web, home: Path) -> None:
    url = web.serve("/w.pth", Answer(BODY, cut=HALF, hold=threading.Event()), Answer(BODY))
    with started(url, home) as interrupted:
        interrupted.until("downloading")
        assert web.sent.wait(30)
        os.kill(interrupted.process.pid, signal.SIGINT)
        interrupted.process.join(60)
        assert interrupted.process.exitcode == 1
    assert not (home / "hub" / "checkpoints" / "w.pth").exists()
    assert locate(url).read_bytes() == BODY


@pytest.mark.parametrize("length", [None, -2])
def test_a_full_disk(web: Web, home: Path, length: int | None) -> None:
    with mounted(home, "-t", "tmpfs", "-o", "size=512k", "tmpfs"):
        url = web.serve("/w.pth", Answer(BODY, length=length))
        told = message(url)
        assert told.startswith(f"checkpoint: no space left in the cache {str(home / 'hub')!r}"[:-1])
        assert f"for {url!r}" in told
        assert told.endswith("free some, or let TORCH_HOME name a folder on another disk")
        assert (f"it has {len(BODY)} bytes, and " in told) == (length is None)
        assert web.asked("/w.pth") == 1
        assert temporaries(home) == []
        # Nothing blocks a file that fits.
        assert locate(web.serve("/small.pth", Answer(b"small"))).read_bytes() == b"small"


def test_a_full_disk_under_a_copy(home: Path) -> None:
    import fsspec  # noqa: PLC0415

    fsspec.filesystem("memory").pipe("/full/w.pth", BODY)
    with mounted(home, "-t", "tmpfs", "-o", "size=512k", "tmpfs"):
        assert f"for 'memory://full/w.pth': it has {len(BODY)} bytes, and " in message("memory://full/w.pth")
        assert temporaries(home) == []


def test_a_read_only_cache(web: Web, home: Path) -> None:
    url = web.serve("/w.pth", Answer(BODY))
    assert locate(url).read_bytes() == BODY
    with mounted(home, "--bind", str(home)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(home)], check=True)
        assert locate(url).read_bytes() == BODY
        assert web.asked("/w.pth") == 1
        told = message(web.serve("/other.pth", Answer(BODY)))
        assert f"'{web.url}/other.pth' is not in the cache" in told
        assert "cannot be put there: Read-only file system; let TORCH_HOME name a folder that can be written to" in told
        assert "Read-only file system" in message("memory://full/w.pth")


def test_a_cache_that_is_a_file(web: Web, home: Path) -> None:
    home.write_bytes(b"")
    url = web.serve("/w.pth", Answer(BODY))
    assert f"{url!r} cannot be kept in the cache" in message(url)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(b"new")
    assert caches.publish(new, old)
    assert old.read_bytes() == b"new"
    assert not new.exists()
    new.write_bytes(b"newer")
    assert not caches.publish(new, old)
    assert (old.read_bytes(), new.read_bytes()) == (b"new", b"newer")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone")
    assert not caches.publish(new, link)
    assert not (tmp_path / "gone").exists()


def test_links_that_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "w").write_bytes(b"w")
    (folder / "a" / "inside").symlink_to(folder / "a" / "w")
    assert caches.is_inside(folder / "a", folder)
    (folder / "a" / "outside").symlink_to(tmp_path)
    assert not caches.is_inside(folder / "a", folder)
    assert not caches.is_inside(folder / "a" / "outside", folder)


@pytest.mark.parametrize(("rank", "shown"), [(0, True), (1, False)])
def test_a_bar_on_a_terminal(web: Web, home: Path, rank: int, shown: bool) -> None:
    url = web.serve("/w.pth", Answer(BODY))
    ours, theirs = pty.openpty()
    # 24 lines of 80 columns; a new one has none.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with started(url, home, os.ttyname(theirs), rank) as watched:
        watched.until(Path)
    os.close(theirs)
    text = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:
            break
        if not chunk:
            break
        text += chunk
    os.close(ours)
    assert (b"w.pth: 100%" in text) == shown


def test_no_bar_in_a_file(web: Web, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    locate(web.serve("/w.pth", Answer(BODY)))
    assert capfd.readouterr() == ("", "")
