"""What a source looks like: the scheme of an address, and the address without its secrets."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote, unquote, unquote_plus

__all__ = ["redacted", "scheme_of", "scrub"]

HIDDEN = "***"

# Two characters at least, so that the drive of "C://" is none. Chains of fsspec may start without slashes, as in
# "simplecache::s3://bucket/w.pth".
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?:://|::(?=.*://))")

_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+://)([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_INSIDE_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")

# A host with something after its colon that is no port: a password that holds a slash, a "?" or a "#".
_CUT_PASSWORD = re.compile(r"[^:\[\]]*:.*[^0-9]", re.DOTALL)

# A name before the "@" that is no user: a repository (with a revision behind), a container of Azure.
_NO_USERS = ("hf://", "abfs://", "abfss://", "wasb://", "wasbs://")

# In the name of a local file, "?" and "#" are letters like others.
_NO_QUERIES = ("file://", "local://")

# Shorter values are replaced as "name=value" alone: a "1" may stand anywhere.
_SHORT = 4


def scheme_of(source: str) -> str | None:
    """What stands before the ``://`` of an address, in lower case; nothing for a plain path.

    >>> scheme_of("S3://bucket/w.pth"), scheme_of("C://w.pth"), scheme_of("simplecache::s3://bucket/w.pth")
    ('s3', None, 'simplecache')
    """
    found = _SCHEME.match(source)
    return found[1].lower() if found else None


def redacted(address: str) -> str:
    """An address as it may be shown: host and path, but no user, password, value of a query, or fragment.

    >>> redacted("https://me:secret@host:8080/w.pth?token=secret&plain#secret")
    'https://***@host:8080/w.pth?token=***&***#***'

    Paths, also those of ``file://``, are shown as they are.
    """
    return "::".join(_redacted(part) for part in address.split("::"))


def _redacted(address: str) -> str:
    scheme, user, host, path, query, fragment = _split(address)
    if not scheme:
        return address
    shown = f"{scheme}{f'{HIDDEN}@' if user else ''}{host}{path}"
    if query:
        pairs = (pair.partition("=") for pair in query[1:].split("&"))
        shown += "?" + "&".join(f"{name}={HIDDEN}" if equals else HIDDEN for name, equals, _ in pairs)
    return shown + (f"#{HIDDEN}" if fragment else "")


def scrub(text: str, address: str) -> str:
    """A text of somebody else, such as an error of a library, without the secrets of an address.

    Args:
        text: What may quote the address, another one that a server redirected to, or a part of either.
        address: What was asked for.
    """
    text = text.replace(address, redacted(address))
    text = _INSIDE_TEXT.sub(lambda found: redacted(found[0]), text)
    for secret in sorted(set(_secrets(address)), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(address: str) -> Iterator[str]:
    """The parts of an address that are not shown, in the spellings that libraries give them."""
    for part in address.split("::"):
        _, user, _, _, query, fragment = _split(part)
        plain = [user, *user.split(":", 1), fragment[1:]]
        for pair in query[1:].split("&"):
            name, equals, value = pair.partition("=")
            plain.append(value if equals else name)
            if value:
                yield f"{name}={value}"
        if user:
            plain.append(b64encode(unquote(user).encode()).decode())
        for secret in plain:
            spellings = {secret, unquote(secret), unquote_plus(secret), quote(unquote(secret), safe="")}
            yield from (spelling for spelling in spellings if len(spelling) >= _SHORT)


def _split(address: str) -> tuple[str, str, str, str, str, str]:
    """Scheme, user and password, host, path, query and fragment; all empty for a path.

    Unlike `urllib.parse.urlsplit`, it takes whatever a user may write, and never raises.
    """
    found = _PARTS.fullmatch(address)
    if found is None:
        return "", "", "", address, "", ""
    scheme, host, path, query, fragment = (part or "" for part in found.groups())
    rest = f"{path}{query}{fragment}"
    if "@" not in host and "@" in rest and _CUT_PASSWORD.fullmatch(host):
        user, _, after = f"{host}{rest}".rpartition("@")
        return scheme, user, *_split(f"{scheme}{after}")[2:]
    if scheme.lower() in _NO_QUERIES:
        path, query, fragment = rest, "", ""
    user, at, name = host.rpartition("@")
    if at and scheme.lower() in _NO_USERS and ":" not in user:
        user, name = "", host
    return scheme, user, name, path, query, fragment
