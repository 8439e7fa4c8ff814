"""Buckets and other file systems of fsspec, and torchvision's names."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from lightning_init.checkpoint.sources.locate import locate
from lightning_init.errors import CheckpointError

BODY = bytes(range(256)) * 40
SHA = sha256_of(BODY).hexdigest()
OTHER = bytes(reversed(BODY))
INDEX = b'{"weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}}'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of our cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "lightning_init"


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A bucket called "models", empty; fsspec is configured as a user would do it."""
    monkeypatch.setenv("NO_PROXY", "*")
    before = dict(fsspec.config.conf)
    fsspec.config.conf["s3"] = {"key": "me", "secret": "topsecret", "endpoint_url": moto}
    fs = fsspec.filesystem("s3")
    fs.mkdir("models")
    yield fs
    fs.rm("models", recursive=True)
    fsspec.config.conf.clear()
    fsspec.config.conf.update(before)


def message(address: str, sha256: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(address, sha256=sha256)
    error: BaseException | None = caught.value
    while error is not None:
        assert "topsecret" not in "".join([str(error), repr(error), *traceback.format_exception(error)])
        error = error.__cause__ or error.__context__
    return str(caught.value)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


class TestBuckets:
    def test_a_file(self, s3: Any, home: Path) -> None:
        s3.pipe("models/a/w.pth", BODY)
        found = locate("s3://models/a/w.pth", sha256=SHA)
        assert (found.name, found.read_bytes()) == ("w.pth", BODY)
        assert found.is_relative_to(home)
        written = found.stat().st_mtime_ns
        assert locate("s3://models/a/w.pth") == found
        assert found.stat().st_mtime_ns == written
        assert files(home) == ["w.pth"]

    def test_one_of_many_parts(self, s3: Any, home: Path) -> None:
        body = BODY * 1200
        with s3.open("models/large.pth", "wb", block_size=5 << 20) as file:
            file.write(body)
        assert locate("s3://models/large.pth").read_bytes() == body

    def test_new_content(self, s3: Any, home: Path) -> None:
        s3.pipe("models/w.pth", BODY)
        old = locate("s3://models/w.pth")
        s3.pipe("models/w.pth", OTHER)
        new = locate("s3://models/w.pth")
        assert (old.read_bytes(), new.read_bytes()) == (BODY, OTHER)
        assert locate("s3://models/w.pth", sha256=SHA) == old

    def test_a_folder(self, s3: Any, home: Path) -> None:
        s3.pipe({"models/dcp/.metadata": BODY, "models/dcp/__0_0.distcp": OTHER, "models/dcp/x/y": b"y"})
        s3.pipe("models/dcp2/other", b"other")
        for address in ("s3://models/dcp", "s3://models/dcp/"):
            found = locate(address)
            assert found.name == "dcp"
            assert {str(path.relative_to(found)): path.read_bytes() for path in found.rglob("*") if path.is_file()} == {
                ".metadata": BODY,
                "__0_0.distcp": OTHER,
                "x/y": b"y",
            }
        s3.pipe("models/dcp/__0_0.distcp", BODY)
        new = locate("s3://models/dcp")
        assert new != found
        assert (new / "__0_0.distcp").read_bytes() == BODY
        assert "a hash is that of one file" in message("s3://models/dcp", SHA)

    def test_an_index_brings_its_shards(self, s3: Any, home: Path) -> None:
        s3.pipe({"models/m/model.safetensors.index.json": INDEX, "models/m/m-1-of-2.safetensors": BODY})
        told = message("s3://models/m/model.safetensors.index.json")
        assert told == (
            "checkpoint: 's3://models/m/model.safetensors.index.json' names the shard 'm-2-of-2.safetensors', but "
            "there is no such file"
        )
        assert files(home) == []
        s3.pipe("models/m/m-2-of-2.safetensors", OTHER)
        found = locate("s3://models/m/model.safetensors.index.json")
        assert found.read_bytes() == INDEX
        assert (found.parent / "m-1-of-2.safetensors").read_bytes() == BODY
        s3.pipe("models/m/m-1-of-2.safetensors", OTHER)
        again = locate("s3://models/m/model.safetensors.index.json")
        assert (again.parent / "m-1-of-2.safetensors").read_bytes() == OTHER

    @pytest.mark.parametrize("address", ["s3://models/gone.pth", "s3://nowhere/w.pth"])
    def test_what_is_not_there(self, s3: Any, home: Path, address: str) -> None:
        assert message(address) == f"checkpoint: no such file or folder: {address!r}"
        assert files(home) == []

    def test_a_wrong_hash(self, s3: Any, home: Path) -> None:
        s3.pipe("models/w.pth", BODY)
        told = message("s3://models/w.pth", "0" * 64)
        wrong = f"its SHA-256 is {SHA}, expected {'0' * 64}"
        assert told == f"checkpoint: 's3://models/w.pth' is not what sha256 says: {wrong}; it was not kept"
        assert files(home) == []

    def test_out_of_reach(self, s3: Any, home: Path, free_port: int, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        s3.pipe("models/w.pth", BODY)
        copy = locate("s3://models/w.pth")
        fsspec.config.conf["s3"] |= {
            "endpoint_url": f"http://127.0.0.1:{free_port}",
            "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1},
        }
        assert locate("s3://models/w.pth", sha256=SHA) == copy
        assert locate("s3://models/w.pth", sha256=SHA[:10].upper()) == copy
        told = message("s3://models/w.pth")
        assert f'Could not connect to the endpoint URL: "http://127.0.0.1:{free_port}/models' in told
        assert told.endswith(
            f"there is a copy in the cache {str(copy.parent.parent)!r}, but whether it is what the remote holds now "
            f"cannot be told without asking it; with sha256= it would be taken, and so it would as a path"
        )
        assert "copy in the cache" not in message("s3://models/never.pth")
        assert [record.getMessage() for record in caplog.records if "topsecret" in record.getMessage()] == []

    def test_at_the_same_time(self, s3: Any, home: Path) -> None:
        s3.pipe("models/w.pth", BODY)
        found: list[Path] = []
        threads = [threading.Thread(target=lambda: found.append(locate("s3://models/w.pth"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) == 4
        assert len(set(found)) == 1
        assert files(home) == ["w.pth"]


class TestOtherFileSystems:
    def test_memory(self, memory: Any, home: Path) -> None:
        memory.pipe("/a/w.pth", BODY)
        assert locate("memory://a/w.pth").read_bytes() == BODY
        memory.pipe("/a/w.pth", OTHER)
        assert locate("memory://a/w.pth").read_bytes() == OTHER

    def test_chains(self, memory: Any, home: Path, tmp_path: Path) -> None:
        with ZipFile(tmp_path / "all.zip", "w") as file:
            file.writestr("x/w.pth", BODY)
        memory.pipe("/all.zip", (tmp_path / "all.zip").read_bytes())
        found = locate("zip://x/w.pth::memory://all.zip")
        assert (found.name, found.read_bytes()) == ("w.pth", BODY)

    @pytest.mark.parametrize("name", ["../w.pth", "/etc/w.pth", "a\\\\b.pth"])
    def test_an_index_that_leads_out(self, memory: Any, home: Path, name: str) -> None:
        memory.pipe("/m/model.bin.index.json", b'{"weight_map": {"a": "%s"}}' % name.encode())
        told = message("memory://m/model.bin.index.json")
        assert told.startswith("checkpoint: 'memory://m/model.bin.index.json': ")
        assert repr(name.replace("\\\\", "\\")) in told
        assert files(home) == []

    def test_a_folder_that_leads_out(self, memory: Any, home: Path, tmp_path: Path) -> None:
        with ZipFile(tmp_path / "all.zip", "w") as file:
            file.writestr("x/../../../w.pth", BODY)
            file.writestr("x/good.pth", BODY)
        told = message(f"zip://x::file://{tmp_path}/all.zip")
        assert "'../../../w.pth' in it, which leaves the folder by '..'; nothing was copied" in told
        assert files(tmp_path) == ["all.zip"]

    def test_a_name_that_leads_out(self, memory: Any, home: Path) -> None:
        memory.store["/lab/.."] = fsspec.implementations.memory.MemoryFile(memory, "/lab/..", BODY)
        found = locate("memory://lab/..")
        assert (found.name, found.read_bytes()) == ("checkpoint", BODY)
        assert len(found.relative_to(home).parts) == 3

    def test_an_empty_folder(self, memory: Any, home: Path) -> None:
        memory.makedirs("/empty")
        assert message("memory://empty") == "checkpoint: 'memory://empty' is a folder without a file in it"

    def test_an_empty_file(self, memory: Any, home: Path) -> None:
        memory.pipe("/w.pth", b"")
        assert message("memory://w.pth") == "checkpoint: 'memory://w.pth' is an empty file; it was not kept"
        assert files(home) == []

    def test_a_link_out_of_the_cache(self, memory: Any, home: Path, tmp_path: Path) -> None:
        memory.pipe("/w.pth", BODY)
        found = locate("memory://w.pth")
        found.rename(tmp_path / "elsewhere.pth")
        found.symlink_to(tmp_path / "elsewhere.pth")
        for sha256 in (None, SHA):
            assert message("memory://w.pth", sha256) == (
                f"checkpoint: 'memory://w.pth': in the cache, {str(found.parent)!r} holds a link that leads out of it; "
                f"remove it"
            )

    def test_what_a_killed_copy_left(self, memory: Any, home: Path) -> None:
        memory.pipe("/w.pth", BODY)
        folder = locate("memory://w.pth").parent.parent
        (folder / "temporary").mkdir()
        (folder / "temporary" / "w.pth").write_bytes(BODY[:100])
        memory.pipe("/w.pth", OTHER)
        assert locate("memory://w.pth").read_bytes() == OTHER
        assert files(home) == ["w.pth", "w.pth"]

    @pytest.mark.parametrize(
        ("address", "package", "remedy"),
        [
            ("s3://b/w.pth", "s3fs", 'needs a package that is not installed: pip install "lightning-init[s3]"'),
            ("gs://b/w.pth", "gcsfs", 'needs a package that is not installed: pip install "lightning-init[gcs]"'),
            ("zip://w.pth::gcs://b/w.zip", "gcsfs", 'pip install "lightning-init[gcs]"'),
            ("az://b/w.pth", "adlfs", "Install adlfs to access Azure"),
            ("torchvision://resnet50", "torchvision", 'pip install "lightning-init[torchvision]"'),
        ],
    )
    def test_a_package_that_is_missing(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, address: str, package: str, remedy: str
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        # What was imported before is remembered.
        remembered = importlib.import_module("fsspec.registry")._registry
        for scheme in set(remembered) & {"s3", "gs", "gcs"}:
            monkeypatch.delitem(remembered, scheme)
        assert remedy in message(address)

    @pytest.mark.parametrize(
        "address", ["ftp://me:topsecret@127.0.0.1:{port}/w.pth", "sftp://topsecret@127.0.0.1/w.pth?x=topsecret"]
    )
    def test_secrets(self, home: Path, free_port: int, address: str) -> None:
        assert "//***@127.0.0.1" in message(address.format(port=free_port))


class TestTorchvision:
    @pytest.fixture(autouse=True)
    def _torchvision(self) -> None:
        pytest.importorskip("torchvision")

    @pytest.mark.parametrize("name", ["resnet50", "ResNet50_Weights.IMAGENET1K_V2", "ResNet50_Weights.DEFAULT"])
    def test_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        cached = tmp_path / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
        cached.parent.mkdir(parents=True)
        cached.write_bytes(BODY)
        assert locate(f"torchvision://{name}", sha256=SHA) == cached

    @pytest.mark.parametrize(
        ("name", "near"),
        [("resnet5", "resnet50"), ("ResNet50_Weights.IMAGENET1K_V3", "ResNet50_Weights.IMAGENET1K_V2"), ("a.b.c", "")],
    )
    def test_unknown_names(self, name: str, near: str) -> None:
        told = message(f"torchvision://{name}")
        assert f"torchvision has no weights {name!r}; " in told
        assert near in told
