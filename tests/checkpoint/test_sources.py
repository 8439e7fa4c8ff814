from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_init.checkpoint.sources import SOURCES, locate, register_source
from lightning_init.errors import CheckpointError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    return path


@pytest.fixture
def memory_scheme(weights: Path) -> Iterator[str]:
    @register_source("memory")
    def fetch(address: str) -> Path:
        return weights if address == "memory://good" else weights.parent / "gone"

    yield "memory"
    del SOURCES["memory"]


def message(source: str | os.PathLike[str]) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(source)
    assert [fault.where for fault in caught.value.faults] == ["checkpoint"]
    return str(caught.value)


def test_a_path_is_itself(weights: Path) -> None:
    assert locate(str(weights)) == weights
    assert locate(weights) == weights


def test_a_relative_path_and_the_home_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weights.parent)
    assert locate("weights.pth") == Path("weights.pth")
    monkeypatch.setenv("HOME", str(weights.parent))
    assert locate("~/weights.pth") == weights


def test_a_file_address(tmp_path: Path) -> None:
    path = tmp_path / "a b#1?x%.pth"
    path.write_bytes(b"x")
    assert locate(path.as_uri()) == path
    assert locate(f"FILE://localhost{path.as_uri().removeprefix('file://')}") == path
    plain = tmp_path / "a#1?x.pth"
    plain.write_bytes(b"x")
    assert locate(f"file://{plain}") == plain


def test_a_file_address_of_another_machine() -> None:
    told = message("file://server/weights.pth")
    assert "'server'" in told
    assert "file:///" in told


def test_an_unknown_scheme_names_the_known_ones() -> None:
    told = message("zenodo://123/weights.pth")
    assert "'zenodo' is no known scheme" in told
    assert "'file://'" in told


def test_a_registered_scheme(memory_scheme: str, weights: Path) -> None:
    assert locate(f"{memory_scheme}://good") == weights
    assert "no such file: 'memory://other'" in message("memory://other")
    with pytest.raises(CheckpointError, match="'memory' is taken"):
        register_source("memory")(lambda address: weights)


def test_a_missing_file_names_the_nearest(weights: Path) -> None:
    told = message(weights.parent / "weihgts.pth")
    assert "no such file" in told
    assert "weihgts.pth" in told
    assert "did you mean 'weights.pth'?" in told


def test_a_missing_folder(tmp_path: Path) -> None:
    told = message(tmp_path / "gone" / "weights.pth")
    assert f"the folder {str(tmp_path / 'gone')!r} does not exist" in told


def test_a_link_to_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(tmp_path / "gone.pth")
    assert "no such file" in message(tmp_path / "link.pth")


def test_a_folder_names_the_files_in_it(weights: Path) -> None:
    told = message(weights.parent)
    assert "is a folder" in told
    assert "'weights.pth'" in told


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    assert "empty file" in message(tmp_path / "empty.pth")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in message(tmp_path / "pipe")


def test_a_path_that_no_file_system_takes() -> None:
    assert "weights" in message("weights\0.pth")
    assert "cannot look at" in message("w" * 5000)
