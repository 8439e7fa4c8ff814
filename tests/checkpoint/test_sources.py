from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

import pytest

from lightning_init.checkpoint.sources.locate import locate
from lightning_init.checkpoint.sources.registry import SOURCES, register_source
from lightning_init.errors import CheckpointError

SHA = sha256_of(b"x").hexdigest()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    return path


@pytest.fixture
def lab() -> Iterator[dict[str, Path]]:
    """A scheme of a user's own, as the table that its function looks into."""
    files: dict[str, Path] = {}

    @register_source("lab")
    def fetch(address: str, sha256: str | None) -> Path:
        return files[f"{address}?{sha256}"]

    yield files
    del SOURCES["lab"]


def message(source: str | os.PathLike[str], where: str = "checkpoint", sha256: Any = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(source, sha256=sha256)
    assert [fault.where for fault in caught.value.faults] == [where]
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
    assert "secret" not in message("file://me:secret@server/weights.pth")
    assert "file:///" in told


def test_addresses_that_no_library_takes_apart() -> None:
    assert "names the host '[x'" in message("file://[x/weights.pth")


def test_the_home_folder_of_nobody() -> None:
    assert "nobody on this machine" in message("~no-such-user/weights.pth")


def test_an_unknown_scheme_names_the_known_ones() -> None:
    assert message("zenodo://123/weights.pth?key=secret") == (
        "checkpoint: no way to fetch 'zenodo://123/weights.pth?key=***': 'zenodo' is no known scheme; there are plain "
        f"paths, {known()}, and the schemes of fsspec, such as 's3://'"
    )


def test_a_misspelt_scheme_names_the_nearest() -> None:
    assert "'torchvison' is no known scheme; did you mean 'torchvision'?" in message("torchvison://resnet50")
    assert "'gitub' is no known scheme; did you mean 'github'" in message("gitub://org:name@main/w.pth")


def known() -> str:
    return ", ".join(f"'{scheme}://'" for scheme in sorted(SOURCES))


def test_a_registered_scheme(lab: dict[str, Path], weights: Path) -> None:
    lab["lab://good?None"] = weights
    lab[f"LAB://good?{SHA}"] = weights
    lab["lab://other?None"] = weights.parent / "gone"
    assert locate("lab://good") == weights
    assert locate("LAB://good", sha256=SHA.upper()) == weights
    assert "no such file: 'lab://other'" in message("lab://other")
    with pytest.raises(CheckpointError, match="'lab' is taken"):
        register_source("lab")(lambda address, sha256: weights)


@pytest.mark.parametrize("scheme", ["", "x", "Lab", "my lab", "lab://", 3])
def test_what_is_no_scheme_is_not_registered(scheme: Any) -> None:
    with pytest.raises(CheckpointError, match="in lower case") as caught:
        register_source(scheme)
    assert repr(scheme) in str(caught.value)


def test_what_cannot_be_called_is_not_registered() -> None:
    with pytest.raises(CheckpointError, match="3 cannot fetch the addresses of 'lab': it"):
        register_source("lab")(3)  # type: ignore[arg-type]
    assert "lab" not in SOURCES


def test_a_registered_source_may_return_a_string(lab: dict[str, Any], weights: Path) -> None:
    lab["lab://text?None"] = str(weights)
    lab["lab://none?key=secret?None"] = None
    assert locate("lab://text") == weights
    assert message("lab://none?key=secret") == (
        "checkpoint: the source of 'lab://none?key=***' must return the path of a file or folder, not None"
    )


def test_a_registered_source_is_checked_as_others(lab: dict[str, Path], weights: Path) -> None:
    lab["lab://good?00000000"] = weights
    told = message("lab://good", "sha256", "00000000")
    assert told == f"sha256: 'lab://good' has the SHA-256 {SHA}, expected 00000000..."


def test_a_path_is_checked(weights: Path) -> None:
    assert locate(weights, sha256=SHA) == weights
    assert locate(weights, sha256=SHA[:8]) == weights
    assert locate(weights.as_uri(), sha256=SHA.upper()) == weights
    wrong = f"{SHA[:63]}0"
    assert message(weights, "sha256", wrong) == (f"sha256: {str(weights)!r} has the SHA-256 {SHA}, expected {wrong}")


def test_a_file_that_changes_is_read_again(weights: Path) -> None:
    assert locate(weights, sha256=SHA) == weights
    weights.write_bytes(b"yy")
    assert "expected" in message(weights, "sha256", SHA)


@pytest.mark.parametrize("sha256", ["", "1234567", "g" * 64, "0" * 65, 12345678, b"12345678", "sha256:12345678"])
def test_what_is_no_hash(weights: Path, sha256: Any) -> None:
    assert message(weights, "sha256", sha256) == (
        f"sha256: must be 64 hexadecimal digits, or at least the first 8 of them, got {sha256!r}"
    )


def test_a_hash_for_a_folder(weights: Path) -> None:
    assert message(weights.parent, "sha256", SHA) == (
        f"sha256: {str(weights.parent)!r} is a folder, and a hash is that of one file; leave sha256 out, or name a "
        f"file in it"
    )


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


def test_a_folder_is_itself(weights: Path) -> None:
    assert locate(weights.parent) == weights.parent
    assert locate(weights.parent.as_uri()) == weights.parent


def test_an_empty_folder(tmp_path: Path) -> None:
    assert message(tmp_path) == f"checkpoint: {str(tmp_path)!r} is an empty folder"


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    assert "empty file" in message(tmp_path / "empty.pth")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in message(tmp_path / "pipe")


def test_a_path_that_no_file_system_takes() -> None:
    assert "weights" in message("weights\0.pth")
    assert "cannot look at" in message("w" * 5000)


def test_a_hash_of_an_index_would_leave_its_shards_unchecked(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "1.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"sha256: .* is an index of shards.*the shards would not be checked"):
        locate(index, sha256=sha256_of(index.read_bytes()).hexdigest())
    assert locate(index) == index
