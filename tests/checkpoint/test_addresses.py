from __future__ import annotations

import sys

import pytest

from lightning_init.checkpoint.sources.addresses import redacted, scheme_of, scrub
from lightning_init.checkpoint.sources.locate import locate
from lightning_init.errors import CheckpointError


@pytest.mark.parametrize(
    ("source", "scheme"),
    [
        ("weights.pth", None),
        ("C://weights.pth", None),
        ("a/b::c.pth", None),
        ("1s3://b/w", None),
        ("s3://bucket/w.pth", "s3"),
        ("HTTPS://host/w.pth", "https"),
        ("git+ssh://host/w", "git+ssh"),
        ("simplecache::s3://bucket/w.pth", "simplecache"),
        ("zip://w.pth::s3://bucket/all.zip", "zip"),
    ],
)
def test_schemes(source: str, scheme: str | None) -> None:
    assert scheme_of(source) == scheme


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://host/w.pth", "https://host/w.pth"),
        ("https://me:secret@host:8080/a@b/w.pth", "https://***@host:8080/a@b/w.pth"),
        ("https://secret@host/w.pth", "https://***@host/w.pth"),
        ("https://me:se@cret@host/w.pth", "https://***@host/w.pth"),
        ("https://me:sec/ret@host/w.pth", "https://***@host/w.pth"),
        ("https://me:sec#ret@host/w.pth?a=1", "https://***@host/w.pth?a=***"),
        ("https://[::1]:80/w.pth", "https://[::1]:80/w.pth"),
        ("https://[secret/w.pth?x=secret", "https://[secret/w.pth?x=***"),
        ("https://host/w.pth?a=secret&b=&secret", "https://host/w.pth?a=***&b=***&***"),
        ("https://host?secret#secret", "https://host?***#***"),
        ("s3://bucket/w.pth?versionId=secret", "s3://bucket/w.pth?versionId=***"),
        ("zip://w.pth::https://secret@host/a.zip", "zip://w.pth::https://***@host/a.zip"),
        ("hf://gpt2@main/w.pth", "hf://gpt2@main/w.pth"),
        ("abfs://box@account/w.pth", "abfs://box@account/w.pth"),
        ("abfs://box:secret@account/w.pth", "abfs://***@account/w.pth"),
        ("file:///a?b#c.pth", "file:///a?b#c.pth"),
        ("/a/b?c=d#e@f.pth", "/a/b?c=d#e@f.pth"),
        ("w\n.pth", "w\n.pth"),
    ],
)
def test_what_is_shown(address: str, shown: str) -> None:
    assert redacted(address) == shown


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("GET https://me:p%40ss@host/w?t=topsecret failed", "GET https://***@host/w?t=*** failed"),
        ("user 'me', password 'p%40ss'", "user 'me', password '***'"),
        ("password p@ss of me:p@ss", "password *** of ***"),
        ("Authorization: Basic bWU6cEBzcw==", "Authorization: Basic ***"),
        ("t=topsecret, topsecret", "***, ***"),
        ("then 'https://other/x?sig=unknown'", "then 'https://other/x?sig=***'"),
        ("nothing in it", "nothing in it"),
    ],
)
def test_what_libraries_say(text: str, scrubbed: str) -> None:
    assert scrub(text, "https://me:p%40ss@host/w?t=topsecret") == scrubbed


def test_a_short_value_is_replaced_with_its_name_alone() -> None:
    assert scrub("error 1: v=1", "https://host/w?v=1") == "error 1: ***"


def test_an_address_of_torchvision_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(CheckpointError) as caught:
        locate("torchvision://me:secret@resnet50?token=secret")
    assert str(caught.value) == (
        "checkpoint: 'torchvision://***@resnet50?token=***' needs torchvision: "
        'pip install "lightning-init[torchvision]"'
    )
