from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import resource
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save
from transformers import BertConfig, BertModel

from lightning_init.checkpoint.formats.recognise import open_checkpoint
from lightning_init.checkpoint.sources.hub import fetch
from lightning_init.checkpoint.sources.hub_address import HubAddress, parse
from lightning_init.checkpoint.sources.locate import locate
from lightning_init.errors import CheckpointError
from tests.checkpoint.files import bits
from tests.checkpoint.hub_server import Hub, Repository, point_at, serving
from tests.distributed.harness import find_free_port, run_script

OLD, NEW = "1" * 40, "2" * 40
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
REFUSED = errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "cache", monkeypatch) as hub:
        yield hub


def weights(value: float) -> bytes:
    return save({"a": torch.full((2,), float(value))})


def sharded(value: float = 1.0) -> dict[str, bytes]:
    weight_map = {"a": ONE, "b": TWO}
    return {
        INDEX: json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
        ONE: save({"a": torch.full((2,), float(value))}),
        TWO: save({"b": torch.full((3,), float(value))}),
    }


def read(path: Path) -> dict[str, list[float]]:
    with open_checkpoint(path) as checkpoint:
        return {key: checkpoint.read(key).tolist() for key in checkpoint.entries}


def told(address: str, sha256: str | None = None, where: str = "checkpoint") -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(address, sha256)
    (fault,) = caught.value.faults
    assert fault.where == where
    return fault.what


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://org/name", HubAddress("org/name", "main", "")),
        ("HF://org/name/", HubAddress("org/name", "main", "")),
        ("hf://org/name.v1@v1.0", HubAddress("org/name.v1", "v1.0", "")),
        ("hf://models/org/name/w.bin", HubAddress("org/name", "main", "w.bin")),
        ("hf://models/name", HubAddress("models/name", "main", "")),
        ("hf://org/name@refs%2Fpr%2F1/a/w b.bin", HubAddress("org/name", "refs/pr/1", "a/w b.bin")),
        ("hf://org/name@refs/pr/1/a/w.bin", HubAddress("org/name", "refs/pr/1", "a/w.bin")),
        ("hf://org/name@main/refs/pr/1", HubAddress("org/name", "main", "refs/pr/1")),
        ("hf://org/name/w@2.bin", HubAddress("org/name", "main", "w@2.bin")),
    ],
)
def test_addresses(address: str, expected: HubAddress) -> None:
    assert parse(address) == expected


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (
            "hf://",
            "is no address of the Hugging Face Hub, which has the form 'hf://org/name[@revision][/path/in/repo]'",
        ),
        ("hf://name", "is no address of the Hugging Face Hub"),
        ("hf://name@main", "is no address of the Hugging Face Hub"),
        ("hf://org//w.bin", "is no address of the Hugging Face Hub"),
        ("hf://org/name@", "is no address of the Hugging Face Hub"),
        ("hf://org/name?x=1", "is no address of the Hugging Face Hub"),
        ("hf://org/name@main?token=secret", "has a query, but the form is 'hf://org/name[@revision][/path/in/repo]'"),
        ("hf://org/name/w.bin?token=secret", "'hf://org/name/w.bin?token=***' has a query"),
        ("hf://../name", "is no address of the Hugging Face Hub"),
        ("hf://org/..", "is no address of the Hugging Face Hub"),
        ("hf://datasets/org/name", "names one of the datasets, not a repository of a model"),
        ("hf://org/name@..%2F..%2Fx", "names the revision '../../x', which leaves the folder by '..'"),
        ("hf://org/name/../w.bin", "names the file '../w.bin', which leaves the folder by '..'"),
        ("hf://org/name//w.bin", "names the file '/w.bin', which is an absolute path"),
        ("hf://org/name/a\\w.bin", "names the file 'a\\\\w.bin', which has a backslash in it"),
    ],
)
def test_addresses_that_are_none(address: str, reason: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(address)
    (fault,) = caught.value.faults
    assert fault.where == "checkpoint"
    assert reason in fault.what
    assert "secret" not in fault.what


def test_a_password_in_an_address_is_not_shown() -> None:
    with pytest.raises(CheckpointError) as caught:
        parse("hf://user:secret@org/name")
    assert "secret" not in str(caught.value)


def test_a_name_that_the_hub_cannot_have(hub: Hub) -> None:
    assert "'org/na--me' is no name of a repository: HFValidationError" in told("hf://org/na--me")
    assert hub.requests == []


def test_safetensors_first_then_shards_then_bin(hub: Hub) -> None:
    files = {"model.safetensors": weights(1), **sharded(2), "pytorch_model.bin": b"bin", "config.json": b"{}"}
    found = []
    for number in range(3):
        hub.repositories["org/name"] = Repository({f"{number}" * 40: dict(files)})
        found.append(fetch("hf://org/name", None).name)
        del files[found[-1]]
    assert found == ["model.safetensors", INDEX, "pytorch_model.bin"]


def test_a_file_by_name_and_one_in_a_folder(hub: Hub) -> None:
    files = {"unet/diffusion_pytorch_model.safetensors": weights(1), "extra/w.bin": b"bin", "config.json": b"{}"}
    hub.repositories["org/name"] = Repository({NEW: files})
    assert read(fetch("hf://org/name/unet/diffusion_pytorch_model.safetensors", None)) == {"a": [1, 1]}
    assert fetch("hf://org/name/unet", None).name == "diffusion_pytorch_model.safetensors"
    assert fetch("hf://org/name/extra/", None).read_bytes() == b"bin"


@pytest.mark.parametrize("below", ["", "deep/below/"])
def test_all_shards_of_one_commit(hub: Hub, below: str) -> None:
    files = {f"{below}{name}": content for name, content in sharded().items()}
    newer = {f"{below}{name}": content for name, content in sharded(2).items()}
    repository = Repository({OLD: files})
    hub.repositories["org/name"] = repository
    path = fetch(f"hf://org/name/{below}", None)
    assert path.is_symlink()
    assert read(path) == {"a": [1, 1], "b": [1, 1, 1]}
    repository.commits[NEW] = newer
    assert read(fetch(f"hf://org/name/{below}{INDEX}", None)) == {"a": [2, 2], "b": [2, 2, 2]}
    assert read(fetch(f"hf://org/name@{OLD}/{below}", None)) == {"a": [1, 1], "b": [1, 1, 1]}
    # The branch was asked for once; what its index names is asked for by commit.
    assert [path for path in hub.paths("HEAD") if path.endswith(ONE)] == [
        f"/org/name/resolve/{commit}/{below}{ONE}" for commit in (OLD, NEW)
    ]


def test_revisions(hub: Hub) -> None:
    commits = {OLD: {"model.safetensors": weights(1)}, NEW: {"model.safetensors": weights(2)}}
    hub.repositories["org/name"] = Repository(dict(commits), {"refs/pr/1": OLD, "v1": OLD})
    assert read(fetch("hf://org/name", None)) == {"a": [2, 2]}
    for revision in ("v1", "refs%2Fpr%2F1", "refs/pr/1", OLD):
        assert read(fetch(f"hf://org/name@{revision}", None)) == {"a": [1, 1]}


def test_what_transformers_saved_in_shards(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = BertModel(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    )
    model.save_pretrained(tmp_path / "saved", max_shard_size="8KB")
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert len(files) > 5
    hub.repositories["org/name"] = Repository({NEW: files})
    with open_checkpoint(fetch("hf://org/name", None)) as checkpoint:
        found = {key: bits(checkpoint.read(key)) for key in checkpoint.entries}
    assert found == {key: bits(tensor) for key, tensor in model.state_dict().items()}


def test_what_is_in_the_cache_is_not_fetched_again(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: sharded()})
    first = fetch("hf://org/name", None)
    hub.requests.clear()
    assert fetch("hf://org/name", None) == first
    assert hub.paths("GET") == ["/api/models/org/name/revision/main"]


def test_one_file_of_one_commit_needs_no_hub(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"w.safetensors": weights(1)}})
    first = fetch(f"hf://org/name@{NEW}/w.safetensors", None)
    hub.requests.clear()
    assert fetch(f"hf://org/name@{NEW}/w.safetensors", None) == first
    assert hub.requests == []


OFFLINE: list[Callable[[Hub, pytest.MonkeyPatch], str]] = []
"""Ways not to reach the Hub; each returns what is told about it."""


@OFFLINE.append
def offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "HF_HUB_OFFLINE is set"


@OFFLINE.append
def gone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    endpoint = f"http://127.0.0.1:{find_free_port()}"
    point_at(endpoint, monkeypatch)
    return f"the Hub at '{endpoint}' cannot be asked (ConnectError: {ConnectionRefusedError(*REFUSED)})"


@OFFLINE.append
def broken(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    hub.status = 503
    return f"the Hub at '{hub.endpoint}' cannot be asked (HTTP 503)"


@OFFLINE.append
def busy(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> str:
    hub.status = 429
    return f"the Hub at '{hub.endpoint}' cannot be asked (HTTP 429)"


@pytest.mark.parametrize("leave", OFFLINE)
def test_the_cache_stands_in_for_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, leave: Callable[[Hub, pytest.MonkeyPatch], str]
) -> None:
    hub.repositories["org/name"] = Repository({OLD: {"w.safetensors": weights(1)}, NEW: sharded()}, {"a/b": OLD})
    for address in ("hf://org/name", "hf://org/name@a%2Fb"):
        fetch(address, None)
    reason = leave(hub, monkeypatch)
    assert read(fetch("hf://org/name", None)) == {"a": [1, 1], "b": [1, 1, 1]}
    assert read(fetch(f"hf://org/name/{INDEX}", None)) == {"a": [1, 1], "b": [1, 1, 1]}
    assert read(fetch(f"hf://org/name@{NEW}", None)) == {"a": [1, 1], "b": [1, 1, 1]}
    assert read(fetch("hf://org/name@a%2Fb", None)) == {"a": [1, 1]}
    cache = constants.HF_HUB_CACHE
    assert told("hf://org/name@v2") == f"{reason}, and the cache '{cache}' holds nothing of 'org/name' at 'v2'"
    assert told("hf://org/other") == f"{reason}, and the cache '{cache}' holds nothing of 'org/other' at 'main'"
    assert told("hf://org/name/modle.safetensors.index.json") == (
        f"the cache of 'org/name' at 'main' ({reason}) has no file 'modle.safetensors.index.json'; "
        f"did you mean '{INDEX}'?"
    )
    (fetch("hf://org/name", None).parent / TWO).unlink()
    assert told("hf://org/name") == (
        f"the cache of 'org/name' at 'main' ({reason}) has no file '{TWO}', which its index '{INDEX}' names; "
        f"it should hold 'b'"
    )


def test_the_environment_of_another_process(hub: Hub, tmp_path: Path) -> None:
    """As users set it: the endpoint, the home of the cache, the token, and then no network."""
    hub.repositories["org/name"] = Repository({NEW: sharded()}, private=True)
    script = tmp_path / "script.py"
    script.write_text(
        "from lightning_init.checkpoint.formats.recognise import open_checkpoint\n"
        "from lightning_init.checkpoint.sources.hub import fetch\n"
        "with open_checkpoint(fetch('hf://org/name', None)) as checkpoint:\n"
        "    print({key: checkpoint.read(key).tolist() for key in checkpoint.entries})\n"
    )
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    printed = run_script([script], env={**env, "HF_TOKEN": hub.token})
    assert "{'a': [1.0, 1.0], 'b': [1.0, 1.0, 1.0]}" in printed
    assert hub.token not in printed
    assert {request.token for request in hub.requests if "org/name" in request.path} == {hub.token}
    assert {request.token for request in hub.requests if request.stored} == {None}
    hub.requests.clear()
    assert "{'a': [1.0, 1.0], 'b': [1.0, 1.0, 1.0]}" in run_script([script], env={**env, "HF_HUB_OFFLINE": "1"})
    assert hub.requests == []


def test_a_connection_that_drops_is_taken_up_again(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": weights(1)}})
    hub.drops = 1
    assert read(fetch("hf://org/name", None)) == {"a": [1, 1]}
    assert len([request for request in hub.requests if request.stored]) == 2


def test_a_connection_that_is_never_whole(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": b"1" * 64}})
    hub.drops = 100
    # huggingface_hub waits a second before each new try.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    what = told("hf://org/name")
    assert what.startswith(
        f"'model.safetensors' of 'org/name' at 'main' cannot be fetched: the Hub at '{hub.endpoint}'"
    )
    assert "RemoteProtocolError" in what
    files = [path for path in Path(constants.HF_HUB_CACHE).rglob("*") if path.is_file() and path.stat().st_size]
    assert [path.name for path in files if path.name not in ("main", "CACHEDIR.TAG")] == []


def test_a_server_that_does_not_answer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        point_at(endpoint, monkeypatch)
        assert f"the Hub at '{endpoint}' cannot be asked (ReadTimeout: timed out)" in told("hf://org/name")


def test_a_server_that_is_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before /api/models is a name in the store, which answers with its content whatever is asked."""
    hub.stored["api/models/org/name/revision/main"] = b"<html>"
    point_at(hub.store, monkeypatch)
    assert f"the Hub at '{hub.store}' cannot be asked (JSONDecodeError: " in told("hf://org/name")


def test_two_at_once_fetch_a_file_once(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": b"1" * 2**22}})
    start = threading.Barrier(2)

    def go() -> Path:
        start.wait(10)
        return fetch("hf://org/name", None)

    with ThreadPoolExecutor(2) as pool:
        one, two = (job.result(30) for job in [pool.submit(go), pool.submit(go)])
    assert one == two
    assert one.read_bytes() == b"1" * 2**22
    assert len([request for request in hub.requests if request.stored]) == 1


def test_no_such_repository(hub: Hub) -> None:
    assert told("hf://org/name") == (
        f"the Hub at '{hub.endpoint}' has no repository 'org/name', or it is private: check the name, or log in with "
        f"'hf auth login' or set HF_TOKEN"
    )


def test_a_gated_repository(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": weights(1)}}, gated=True)
    assert told("hf://org/name") == (
        f"'org/name' is gated: ask for access on its page on the Hub at '{hub.endpoint}', then log in with "
        f"'hf auth login' or set HF_TOKEN"
    )


def test_no_such_revision(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": weights(1)}}, {"v1.0": NEW})
    assert told("hf://org/name@v1.1") == "the repository 'org/name' has no revision 'v1.1'; did you mean 'v1.0'?"


def test_no_such_file(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": weights(1), "config.json": b"{}"}})
    assert told("hf://org/name/modle.safetensors") == (
        "the repository 'org/name' at 'main' has no file 'modle.safetensors'; did you mean 'model.safetensors'?"
    )


def test_no_checkpoint_and_several(hub: Hub) -> None:
    files = {"a/one.pt": b"1", "a/two.pt": b"2", "config.json": b"{}"}
    hub.repositories["org/name"] = Repository({NEW: files})
    assert told("hf://org/name") == (
        "the repository 'org/name' at 'main' has no checkpoint; it has 'a/one.pt', 'a/two.pt', 'config.json'"
    )
    assert told("hf://org/name/a") == (
        "the repository 'org/name' at 'main', in 'a', has several checkpoints; name one of them: 'one.pt', 'two.pt'"
    )


def test_a_token_that_is_wrong_is_not_shown(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": weights(1)}})
    with pytest.raises(CheckpointError) as caught:
        fetch("hf://org/name", None)
    shown = "".join(traceback.TracebackException.from_exception(caught.value).format())
    assert f"the Hub at '{hub.endpoint}' refuses 'org/name' at 'main' (HTTP 401" in shown
    assert "the token is wrong or too old" in shown
    assert hub.requests[0].token == "hf_wrongwrongwrong"  # noqa: S105 - of nothing real
    written = capfd.readouterr()
    assert "hf_wrong" not in shown + caplog.text + written.out + written.err
    # Not even in what a debugger would find along the chain.
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    hub.status, hub.message = 403, "hf_wrongwrongwrong may not read this"
    assert "refuses 'org/name' at 'main' (HTTP 403: *** may not read this)" in told("hf://org/name")


def test_a_password_in_the_endpoint_is_not_shown(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in (hub.endpoint, f"http://127.0.0.1:{find_free_port()}"):
        point_at(endpoint.replace("//", "//user:hidden@"), monkeypatch)
        what = told("hf://org/name")
        assert endpoint.replace("//", "//***@") in what
        assert "hidden" not in what
    point_at(hub.endpoint, monkeypatch)
    hub.status, hub.message = 403, "go to https://user:hidden@mirror/models"
    assert "(HTTP 403: go to https://***@mirror/models)" in told("hf://org/name")


def test_names_in_an_index_are_checked_before_anything_is_fetched(hub: Hub) -> None:
    weight_map = {"a": "../../../outside.safetensors", "b": TWO}
    files = {**sharded(), INDEX: json.dumps({"weight_map": weight_map}).encode()}
    hub.repositories["org/name"] = Repository({NEW: files})
    assert "names the shard '../../../outside.safetensors', which leaves the folder by '..'" in told("hf://org/name")
    assert [request for request in hub.requests if request.stored] == []


def test_shards_that_are_missing_are_told_before_anything_is_fetched(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {INDEX: sharded()[INDEX]}})
    with pytest.raises(CheckpointError) as caught:
        fetch("hf://org/name", None)
    assert [fault.what for fault in caught.value.faults] == [
        f"the repository 'org/name' at 'main' has no file '{name}', which its index '{INDEX}' names; "
        f"it should hold '{key}'"
        for name, key in ((ONE, "a"), (TWO, "b"))
    ]


def test_an_index_that_is_none(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {INDEX: b"{}"}})
    assert "is JSON without a 'weight_map'" in told("hf://org/name")


def test_a_hash_of_one_file(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": weights(1)}})
    right = hashlib.sha256(weights(1)).hexdigest()
    assert read(locate("hf://org/name", sha256=right)) == {"a": [1, 1]}
    with pytest.raises(CheckpointError, match=f"sha256: 'hf://org/name' .*{right}"):
        locate("hf://org/name", sha256="0" * 64)


def test_a_hash_of_shards(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: sharded()})
    assert told("hf://org/name", hashlib.sha256(b"").hexdigest(), "sha256") == (
        f"is the hash of one file, but 'hf://org/name' is '{INDEX}' and its shards; pin a commit instead, with '@'"
    )
    assert [request for request in hub.requests if request.stored] == []


@pytest.mark.parametrize("which", ["model.safetensors", TWO])
def test_a_link_out_of_the_cache(hub: Hub, tmp_path: Path, which: str) -> None:
    files = {"model.safetensors": weights(1)} if which == "model.safetensors" else sharded()
    hub.repositories["org/name"] = Repository({NEW: files})
    link = fetch("hf://org/name", None).parent / which
    (tmp_path / "outside").write_bytes(weights(3))
    link.unlink()
    link.symlink_to(tmp_path / "outside")
    assert told("hf://org/name") == (
        f"'{which}' of 'org/name' at 'main' is in the cache as '{link}', a link that leads out of the cache, to "
        f"'{tmp_path / 'outside'}'; delete the link, so that the file is fetched again"
    )


def test_a_cache_that_is_no_folder(hub: Hub) -> None:
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": weights(1)}})
    Path(constants.HF_HUB_CACHE).write_bytes(b"")
    what = told("hf://org/name")
    assert what.startswith(f"'org/name' at 'main' cannot be kept in the cache '{constants.HF_HUB_CACHE}': ")


def test_a_cache_that_is_full(hub: Hub) -> None:
    """A limit on the size of files stops the writing in the middle, as a full disk does."""
    hub.repositories["org/name"] = Repository({NEW: {"model.safetensors": b"1" * 2**20}})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        what = told("hf://org/name")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert what == f"'org/name' at 'main' cannot be kept in the cache '{constants.HF_HUB_CACHE}': File too large"
    cached = Path(constants.HF_HUB_CACHE).rglob("*")
    assert [path for path in cached if path.is_file() and path.stat().st_size > 1000] == []


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert told("hf://org/name") == (
        "'hf://org/name' needs huggingface_hub, which is not installed: pip install 'lightning-init[hub]'"
    )
