from __future__ import annotations

import logging
import re
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256 as sha256_of
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import pytest
import torch
import trustme
from safetensors.torch import save_file

from lightning_init.checkpoint.sources import download
from lightning_init.checkpoint.sources.locate import locate
from lightning_init.errors import CheckpointError
from tests.checkpoint.servers import Answer, Web, web_server

BODY = bytes(range(256)) * 40
SHA = sha256_of(BODY).hexdigest()
OTHER = bytes(reversed(BODY))
HALF = len(BODY) // 2


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "PAUSES", (0.01,) * 4)
    with web_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub would put files."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture
def config() -> Iterator[dict[str, Any]]:
    """Fsspec's configuration for http."""
    before = dict(fsspec.config.conf)
    yield fsspec.config.conf.setdefault("http", {})
    fsspec.config.conf.clear()
    fsspec.config.conf.update(before)


def message(url: str, sha256: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(url, sha256=sha256)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    return str(caught.value)


def files(folder: Path) -> list[str]:
    """The names of all files that a later run could take for one that was fetched."""
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "partial", "partial.json", "origin.json")
    )


class TestTheCache:
    def test_it_is_the_one_of_torch_hub(self, web: Web, cache: Path) -> None:
        torch.save({"a": torch.ones(2)}, cache.parent.parent.parent / "w.pth")
        body = (cache.parent.parent.parent / "w.pth").read_bytes()
        url = web.serve("/models/w.pth", Answer(body))
        assert locate(f"{url}?x=1") == cache / "w.pth"
        assert (cache / "w.pth").read_bytes() == body
        assert locate(f"{url}?x=1") == cache / "w.pth"
        assert torch.hub.load_state_dict_from_url(url)["a"].tolist() == [1, 1]
        assert len(web.requests) == 1

    def test_a_file_that_torch_hub_downloaded_is_taken_for_its_hash(self, web: Web, cache: Path) -> None:
        cache.mkdir(parents=True)
        (cache / f"w-{SHA[:8]}.pth").write_bytes(BODY)
        (cache / "w.pth").write_bytes(BODY)
        assert locate(f"{web.url}/w-{SHA[:8]}.pth") == cache / f"w-{SHA[:8]}.pth"
        assert locate(f"{web.url}/w.pth", sha256=SHA) == cache / "w.pth"
        assert web.requests == []

    def test_a_truncated_file_that_torch_hub_left_is_not_taken(
        self, web: Web, cache: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache.mkdir(parents=True)
        name = f"w-{SHA[:8]}.pth"
        (cache / name).write_bytes(BODY[:HALF])
        url = web.serve(f"/{name}", Answer(BODY))
        found = locate(url)
        assert found.read_bytes() == BODY
        assert (cache / name).read_bytes() == BODY[:HALF]
        (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert warning == (
            f"{url!r} is kept as {str(found)!r}, since {str(cache / name)!r} is another file of that name, which "
            f"torch.hub would have taken for it"
        )
        assert locate(url) == found
        assert len(web.requests) == 1

    def test_two_urls_with_one_name(self, web: Web, cache: Path) -> None:
        one, two = web.serve("/a/w.pth", Answer(BODY)), web.serve("/b/w.pth", Answer(OTHER))
        for _ in range(2):
            assert locate(one) == cache / "w.pth"
            assert locate(one).read_bytes() == BODY
            assert locate(two).read_bytes() == OTHER
        assert [request.path for request in web.requests] == ["/a/w.pth", "/b/w.pth"]
        assert files(cache) == ["w.pth", "w.pth"]

    @pytest.mark.parametrize("name", [".lock", "origin.json", "partial", "partial.json", ".lightning_init"])
    def test_names_that_the_cache_uses_itself(self, web: Web, cache: Path, name: str) -> None:
        half = Answer(BODY, cut=HALF, etag='"1"', ranges=True)
        url = web.serve(f"/{name}", half, *[Answer(status=404)] * 2, Answer(BODY, etag='"1"', ranges=True))
        assert "answers 404" in message(url)
        assert "answers 404" in message(url)
        assert [locate(url).read_bytes(), locate(url).read_bytes()] == [BODY, BODY]
        assert len(web.requests) == 4

    def test_queries_name_different_files(self, web: Web, cache: Path) -> None:
        one, two = web.serve("/w?id=1", Answer(BODY)), web.serve("/w?id=2", Answer(OTHER))
        assert (locate(one).read_bytes(), locate(two).read_bytes()) == (BODY, OTHER)

    def test_two_urls_of_one_file_share_it(self, web: Web, cache: Path) -> None:
        one, two = web.serve("/a/w.pth", Answer(BODY)), web.serve("/b/w.pth", Answer(BODY))
        assert [locate(url) for url in (one, two, one, two)] == [cache / "w.pth"] * 4
        assert len(web.requests) == 2
        assert files(cache) == ["w.pth"]

    def test_a_file_that_was_exchanged_is_another_one(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY))
        locate(url).write_bytes(b"torch.hub's")
        assert locate(url).read_bytes() == BODY
        assert (cache / "w.pth").read_bytes() == b"torch.hub's"

    def test_a_new_hash_brings_the_new_content(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY), Answer(OTHER), Answer(OTHER[:HALF]))
        assert locate(url, sha256=SHA).read_bytes() == BODY
        for body in (OTHER, OTHER[:HALF]):
            assert locate(url, sha256=sha256_of(body).hexdigest()).read_bytes() == body
        assert locate(url, sha256=SHA).read_bytes() == BODY
        assert len(web.requests) == 3

    def test_a_link_out_of_it(self, web: Web, cache: Path, tmp_path: Path) -> None:
        cache.mkdir(parents=True)
        (tmp_path / "secret.pth").write_bytes(BODY)
        (cache / "w.pth").symlink_to(tmp_path / "secret.pth")
        url = web.serve("/w.pth", Answer(BODY))
        assert message(url, SHA) == (
            f"checkpoint: {url!r}: in the cache, {str(cache / 'w.pth')!r} is a link that leads out of it, to "
            f"{str(tmp_path / 'secret.pth')!r}; remove it, or give that path in place of the URL"
        )
        assert web.requests == []

    def test_a_link_out_of_it_under_a_part(self, web: Web, cache: Path, tmp_path: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, cut=HALF, ranges=True, etag='"1"'), Answer(status=404))
        message(url)
        (part,) = cache.rglob("partial")
        part.rename(tmp_path / "mine")
        part.symlink_to(tmp_path / "mine")
        web.serve("/w.pth", Answer(BODY, ranges=True, etag='"1"'))
        assert "holds a link that leads out of it; remove it" in message(url)
        assert (tmp_path / "mine").read_bytes() == BODY[:HALF]

    def test_a_cache_that_is_a_link_as_a_whole(self, web: Web, cache: Path, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        cache.parent.mkdir(parents=True)
        cache.symlink_to(tmp_path / "disk")
        url = web.serve("/w.pth", Answer(BODY))
        assert [locate(url), locate(url)] == [cache / "w.pth"] * 2
        assert len(web.requests) == 1


class TestHashes:
    def test_of_the_name(self, web: Web, cache: Path) -> None:
        url = web.serve("/w-00000000.pth", Answer(BODY))
        assert message(url) == (
            f"checkpoint: {url!r} is not what its name says: its SHA-256 is {SHA}, expected 00000000...; it was "
            f"not kept"
        )
        assert len(web.requests) == 1
        assert files(cache) == []

    def test_given(self, web: Web, cache: Path) -> None:
        url = web.serve("/w-00000000.pth", Answer(BODY))
        wrong = SHA[::-1]
        assert message(url, wrong) == (
            f"checkpoint: {url!r} is not what sha256 says: its SHA-256 is {SHA}, expected {wrong}; it was not kept"
        )
        assert locate(url, sha256=SHA.upper()).read_bytes() == BODY
        assert files(cache) == ["w-00000000.pth"]

    def test_a_date_is_none(self, web: Web, cache: Path) -> None:
        assert locate(web.serve("/w-20210831.pth", Answer(BODY))).read_bytes() == BODY


class TestServersThatFail:
    @pytest.mark.parametrize(
        ("status", "told"),
        [
            (404, "the server answers 404 Not Found"),
            (410, "the server answers 410 Gone"),
            (403, "the server answers 403 Forbidden; if it wants a token, give it in fsspec's configuration: "),
            (401, "the server answers 401 Unauthorized; if it wants a token"),
            (304, "the server answers 304 Not Modified"),
            (204, "the server answers 204 No Content"),
        ],
    )
    def test_not_tried_again(self, web: Web, cache: Path, status: int, told: str) -> None:
        url = web.serve("/w.pth", Answer(b"" if status in (204, 304) else b"no", status=status))
        assert message(url).startswith(f"checkpoint: cannot download {url!r}: {told}")
        assert len(web.requests) == 1
        assert files(cache) == []

    @pytest.mark.parametrize("status", [429, 500, 502, 503])
    def test_tried_again(self, web: Web, cache: Path, status: int) -> None:
        url = web.serve("/w.pth", Answer(status=status), Answer(status=status), Answer(BODY))
        assert locate(url).read_bytes() == BODY
        assert len(web.requests) == 3

    def test_a_few_times(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(status=500))
        assert message(url) == (
            f"checkpoint: cannot download {url!r}: the server answers 500 Internal Server Error; tried 5 times"
        )
        assert len(web.requests) == 5

    @pytest.mark.parametrize("length", [None, -2])
    def test_a_drop(self, web: Web, cache: Path, length: int | None) -> None:
        url = web.serve("/w.pth", Answer(BODY, cut=HALF, length=length), Answer(BODY))
        assert locate(url).read_bytes() == BODY
        assert len(web.requests) == 2

    def test_a_drop_each_time(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, cut=HALF))
        assert message(url) == (
            f"checkpoint: cannot download {url!r}: the connection ended before the file did; {HALF} of {len(BODY)} "
            f"bytes came; tried 5 times"
        )
        assert [path.name for path in cache.rglob("*") if path.is_file()] == [".lock"]

    def test_a_stall(self, web: Web, cache: Path, config: dict[str, Any]) -> None:
        config["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(sock_read=0.1)}
        url = web.serve("/w.pth", Answer(BODY, cut=HALF, hold=threading.Event()))
        assert message(url) == (
            f"checkpoint: cannot download {url!r}: the server does not answer any more; {HALF} of {len(BODY)} bytes "
            f"came; tried 5 times"
        )
        assert files(cache) == []

    def test_a_length_that_is_too_large(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, length=len(BODY) + 1))
        assert f"{len(BODY)} of {len(BODY) + 1} bytes came" in message(url)
        assert files(cache) == []

    def test_a_length_that_is_too_small(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, length=HALF, cut=HALF))
        assert "is not what sha256 says" in message(url, SHA)
        assert files(cache) == []

    def test_more_than_the_length_says(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, length=HALF))
        # What comes in one piece with the rest is no HTTP any more; what comes later is never read.
        assert re.search("is not what sha256 says|400, message='Data after .Connection: close.", message(url, SHA))
        assert files(cache) == []

    @pytest.mark.parametrize("save", [torch.save, save_file])
    def test_a_length_that_is_too_small_for_what_the_file_says(
        self, web: Web, cache: Path, tmp_path: Path, save: Callable[..., None]
    ) -> None:
        save({"a": torch.ones(5000)}, tmp_path / "w")
        body = (tmp_path / "w").read_bytes()
        for length in (20, len(body) // 2, len(body) - 1):
            url = web.serve("/w.pth", Answer(body, length=length, cut=length))
            assert message(url) == (
                f"checkpoint: {url!r} is cut off: the server sent less than the file says of itself; it was not kept"
            )
        assert files(cache) == []
        assert locate(web.serve("/w.pth", Answer(body))).read_bytes() == body

    def test_a_header_of_safetensors_that_is_nested_too_deep(self, web: Web, cache: Path) -> None:
        header = b'{"a":' + b"[" * 200_000
        url = web.serve("/w.safetensors", Answer(len(header).to_bytes(8, "little") + header))
        assert locate(url) == cache / "w.safetensors"

    def test_no_length(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, length=-1))
        assert message(url) == (
            f"checkpoint: cannot download {url!r}: the server does not say how long it is, so a part of it would pass "
            f"for the whole; give its sha256"
        )
        assert files(cache) == []
        assert locate(url, sha256=SHA).read_bytes() == BODY

    def test_no_length_and_a_drop(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, length=-1, cut=HALF))
        assert "is not what sha256 says" in message(url, SHA)
        assert files(cache) == []

    def test_chunks(self, web: Web, cache: Path) -> None:
        assert locate(web.serve("/w.pth", Answer(BODY, length=-2))).read_bytes() == BODY

    @pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>Log in", b"\n <html>"])
    def test_a_page(self, web: Web, cache: Path, page: bytes) -> None:
        url = web.serve("/w.pth", Answer(page, headers={"Content-Type": "text/html"}))
        assert "is a web page (HTML), not a checkpoint; give the URL of the file itself" in message(url)
        assert files(cache) == []

    def test_nothing(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer())
        assert message(url) == f"checkpoint: {url!r} is an empty file; it was not kept"
        assert files(cache) == []

    def test_nobody_there(self, web: Web, cache: Path, free_port: int) -> None:
        told = message(f"http://127.0.0.1:{free_port}/w.pth")
        assert f"Cannot connect to host 127.0.0.1:{free_port}" in told
        assert "tried 5 times" in told


class TestResuming:
    def test_the_rest_alone_is_asked_for(self, web: Web, cache: Path) -> None:
        part = Answer(BODY, cut=100, ranges=True, etag='"1"')
        url = web.serve("/w.pth", part, part, Answer(BODY, ranges=True, etag='"1"'))
        assert locate(url).read_bytes() == BODY
        assert [request.headers.get("Range") for request in web.requests] == [None, "bytes=100-", "bytes=200-"]
        assert [request.headers.get("If-Range") for request in web.requests] == [None, '"1"', '"1"']

    def test_as_long_as_something_comes(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", *[Answer(BODY, cut=100, ranges=True, etag='"1"')] * 20, Answer(BODY))
        assert locate(url).read_bytes() == BODY
        assert len(web.requests) == 21

    @pytest.mark.parametrize("etag", ["", 'W/"1"'])
    def test_not_without_a_name_for_the_content(self, web: Web, cache: Path, etag: str) -> None:
        url = web.serve("/w.pth", Answer(BODY, cut=HALF, ranges=True, etag=etag), Answer(OTHER, ranges=True, etag=etag))
        assert locate(url).read_bytes() == OTHER
        assert "Range" not in web.requests[1].headers

    def test_with_a_hash_in_its_place(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, cut=HALF, ranges=True), Answer(BODY, ranges=True))
        assert locate(url, sha256=SHA).read_bytes() == BODY
        assert web.requests[1].headers["Range"] == f"bytes={HALF}-"

    def test_pieces_of_two_files(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(OTHER, cut=HALF, ranges=True), Answer(BODY, ranges=True))
        assert locate(url, sha256=SHA).read_bytes() == BODY
        assert [request.headers.get("Range") for request in web.requests] == [None, f"bytes={HALF}-", None]

    def test_a_server_that_cannot(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, cut=HALF, etag='"1"'), Answer(BODY, etag='"1"'))
        assert locate(url).read_bytes() == BODY

    def test_new_content(self, web: Web, cache: Path) -> None:
        url = web.serve(
            "/w.pth", Answer(BODY, cut=HALF, ranges=True, etag='"1"'), Answer(OTHER, ranges=True, etag='"2"')
        )
        assert locate(url).read_bytes() == OTHER
        assert len(web.requests) == 2

    @pytest.mark.parametrize(
        "lie",
        [
            {"etag": '"1"', "headers": {"Content-Range": f"bytes {HALF}-{len(BODY)}/{len(BODY) + 1}"}},
            {"etag": '"1"', "headers": {"Content-Range": f"bytes {HALF - 1}-{len(BODY) - 1}/{len(BODY)}"}},
            {"etag": '"1"', "headers": {"Content-Range": "all"}},
            {"etag": '"1"', "headers": {"Content-Range": f"bytes {'9' * 5000}-1/{len(BODY)}"}},
            {"etag": '"1"', "headers": {"Content-Range": f"bytes {HALF}-{len(BODY) - 1}/{'9' * 5000}"}},
            {"etag": "", "headers": {"ETag": '"2"'}},
        ],
    )
    def test_a_server_that_continues_another_file(self, web: Web, cache: Path, lie: dict[str, Any]) -> None:
        broken = Answer(OTHER, cut=HALF, ranges=True, etag='"1"')
        # Whatever If-Range says.
        wrong = Answer(BODY[HALF:], status=206, etag=lie["etag"], headers=lie["headers"])
        url = web.serve("/w.pth", broken, wrong, Answer(BODY, ranges=True, etag='"2"'))
        assert locate(url).read_bytes() == BODY
        assert [request.headers.get("Range") for request in web.requests] == [None, f"bytes={HALF}-", None]

    def test_a_part_that_is_out_of_range(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, cut=HALF, etag='"1"'), Answer(status=416), Answer(BODY))
        assert locate(url).read_bytes() == BODY
        assert "Range" not in web.requests[2].headers


class TestRedirects:
    def test_to_another_place(self, web: Web, cache: Path) -> None:
        web.serve("/real/file", Answer(BODY))
        url = web.serve("/w.pth", Answer(status=302, headers={"Location": "/real/file?sig=secret"}))
        assert locate(url) == cache / "w.pth"
        assert (cache / "w.pth").read_bytes() == BODY

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/w.pth", "FILE:///etc/passwd"])
    def test_to_another_scheme(self, web: Web, cache: Path, target: str) -> None:
        url = web.serve("/w.pth", Answer(status=302, headers={"Location": target}))
        told = message(url)
        assert told.startswith(f"checkpoint: cannot download {url!r}: the server redirects to '{target}")
        assert told.endswith("only http and https are followed")
        assert len(web.requests) == 1
        assert files(cache) == []

    def test_in_circles(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(status=302, headers={"Location": "/w.pth"}))
        assert "the server redirects in circles" in message(url)
        assert len(web.requests) == 10

    def test_from_https_to_http(self, web: Web, cache: Path, tls: tuple[Web, dict[str, Any]]) -> None:
        server, _ = tls
        target = web.serve("/w.pth?sig=secret", Answer(BODY))
        url = server.serve("/w.pth", Answer(status=302, headers={"Location": target}))
        told = message(url)
        shown = target.replace("secret", "***")
        assert f"the server redirects from https to {shown!r}, which is not encrypted" in told
        assert web.requests == []
        server.serve("/u.pth", Answer(status=302, headers={"URI": target}))
        assert "redirects from https" in message(f"{server.url}/u.pth")
        assert web.requests == []
        server.serve("/v.pth", Answer(BODY))
        assert locate(f"{server.url}/v.pth").read_bytes() == BODY

    def test_a_certificate_that_nobody_vouches_for(self, cache: Path, tls: tuple[Web, dict[str, Any]]) -> None:
        server, config = tls
        del config["ssl"]
        assert "CERTIFICATE_VERIFY_FAILED" in (told := message(f"{server.url}/w.pth"))
        assert "tried" not in told


@pytest.fixture
def tls(tmp_path: Path, config: dict[str, Any], web: Web) -> Iterator[tuple[Web, dict[str, Any]]]:
    """A server of https whose certificate fsspec's configuration trusts."""
    authority = trustme.CA()
    here, there = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(here)
    authority.issue_cert("127.0.0.1").configure_cert(there)
    config["ssl"] = here
    with web_server(there) as server:
        yield server, config


class TestSecrets:
    def test_a_password_in_the_url(self, web: Web, cache: Path) -> None:
        url = web.serve("/w.pth", Answer(BODY, authorization=aiohttp.encode_basic_auth("me", "topsecret")))
        assert locate(url.replace("//", "//me:topsecret@")).read_bytes() == BODY
        assert locate(url.replace("//", "//me:another@")).read_bytes() == BODY
        assert len(web.requests) == 1

    def test_a_token_of_the_configuration(self, web: Web, cache: Path, config: dict[str, Any]) -> None:
        url = web.serve("/w.pth", Answer(BODY, authorization="Bearer topsecret"))
        config["client_kwargs"] = {"headers": {"Authorization": "Bearer topsecret"}}
        assert locate(url).read_bytes() == BODY

    def test_no_other_server_gets_it(self, web: Web, cache: Path, config: dict[str, Any]) -> None:
        config["client_kwargs"] = {"headers": {"Authorization": "Bearer topsecret"}}
        with web_server() as other:
            target = other.serve("/w.pth", Answer(BODY))
            url = web.serve("/w.pth", Answer(status=302, headers={"Location": target}))
            assert locate(url).read_bytes() == BODY
            assert "Authorization" in web.requests[0].headers
            assert "Authorization" not in other.requests[0].headers

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(status=404),
            Answer(status=401),
            Answer(status=500),
            Answer(BODY),
            Answer(BODY, cut=HALF),
            Answer(BODY, length=-1),
            Answer(b"<html>"),
            Answer(),
            Answer(status=302, headers={"Location": "file:///w.pth?token=topsecret"}),
            Answer(status=302, headers={"Location": "/w.pth?token=topsecret"}),
            Answer(status=302, headers={"Location": "http://me:topsecret@127.0.0.1:1/w.pth?token=topsecret"}),
            Answer(status=302, headers={"Location": "http://[topsecret"}),
        ],
    )
    def test_none_is_told(
        self, web: Web, cache: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], answer: Answer
    ) -> None:
        caplog.set_level(logging.DEBUG)
        url = web.serve("/w.pth", answer).replace("//", "//me:topsecret@") + "?token=topsecret#topsecret"
        with pytest.raises(CheckpointError) as caught:
            locate(url, sha256="0" * 64 if answer.body == BODY and answer.length != -1 else None)
        chain: list[BaseException] = [caught.value]
        while (last := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(last)
        told = [text for error in chain for text in (str(error), repr(error), *traceback.format_exception(error))]
        told += [record.getMessage() for record in caplog.records if record.name.startswith("lightning_init")]
        told += [*capfd.readouterr(), *(str(path) for path in cache.rglob("*"))]
        told += [path.read_text("latin-1") for path in cache.rglob("*") if path.is_file()]
        assert "***" in str(caught.value)
        assert [text for text in told if "topsecret" in text] == []


class TestUrls:
    @pytest.mark.parametrize("path", ["", "/", "/a/", "/?w.pth", "/a/.."])
    def test_without_a_file(self, cache: Path, path: str) -> None:
        assert "names no file" in message(f"http://127.0.0.1:1{path}")

    @pytest.mark.parametrize("url", ["http:///w.pth", "http://host:99999/w.pth", "http://a b:c@/w.pth"])
    def test_that_are_none(self, cache: Path, url: str) -> None:
        with pytest.raises(CheckpointError, match="is no URL") as caught:
            locate(url)
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        assert files(cache) == []

    def test_a_name_in_other_letters(self, web: Web, cache: Path) -> None:
        url = web.serve("/a%20b.pth", Answer(BODY))
        assert locate(url) == cache / "a%20b.pth"


class TestShards:
    INDEX = b'{"weight_map": {"a": "m-1-of-2.safetensors", "b": "x/m-2-of-2.safetensors", "c": "m-1-of-2.safetensors"}}'

    def test_they_come_with_their_index(self, web: Web, cache: Path) -> None:
        url = web.serve("/m/model.safetensors.index.json?v=1", Answer(self.INDEX))
        web.serve("/m/m-1-of-2.safetensors", Answer(BODY))
        web.serve("/m/x/m-2-of-2.safetensors", Answer(OTHER))
        found = locate(url)
        assert found.name == "model.safetensors.index.json"
        assert found.read_bytes() == self.INDEX
        assert (found.parent / "m-1-of-2.safetensors").read_bytes() == BODY
        assert (found.parent / "x" / "m-2-of-2.safetensors").read_bytes() == OTHER
        assert locate(url) == found
        assert len(web.requests) == 3

    def test_one_that_is_missing(self, web: Web, cache: Path) -> None:
        url = web.serve("/m/model.safetensors.index.json", Answer(self.INDEX))
        web.serve("/m/m-1-of-2.safetensors", Answer(BODY))
        assert f"cannot download '{web.url}/m/x/m-2-of-2.safetensors': the server answers 404" in message(url)
        assert "model.safetensors.index.json" not in files(cache)
        web.serve("/m/x/m-2-of-2.safetensors", Answer(OTHER))
        assert locate(url).read_bytes() == self.INDEX
        assert web.asked("/m/m-1-of-2.safetensors") == 1

    @pytest.mark.parametrize("name", ["../w.pth", "/etc/passwd", "a\\\\b", "x/../../w.pth"])
    def test_one_outside_its_folder(self, web: Web, cache: Path, name: str) -> None:
        url = web.serve("/m/model.safetensors.index.json", Answer(b'{"weight_map": {"a": "%s"}}' % name.encode()))
        told = message(url)
        assert told.startswith(f"checkpoint: {url!r}: ")
        assert repr(name.replace("\\\\", "\\")) in told
        assert len(web.requests) == 1
        assert "model.safetensors.index.json" not in files(cache)
