"""What an address of the Hugging Face Hub names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from lightning_init.checkpoint.confined import unsafe
from lightning_init.checkpoint.sources.addresses import redacted
from lightning_init.errors import CheckpointError, Fault

__all__ = ["HubAddress", "parse"]

_FORM = "hf://org/name[@revision][/path/in/repo]"

# Pull requests and conversions are revisions with slashes, which huggingface_hub takes as they are.
_ADDRESS = re.compile(
    r"hf://(?:models/(?=[^/]+/))?(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(?P<path>.*))?",
    re.IGNORECASE | re.ASCII,
)
_OTHER_KINDS = ("buckets", "datasets", "kernels", "spaces")


@dataclass(frozen=True)
class HubAddress:
    """A repository, perhaps a file or folder in it.

    Attributes:
        repo: Organisation (or user) and name.
        revision: A branch, tag, commit or other reference.
        path: A file or folder; empty for the repository as a whole.
    """

    repo: str
    revision: str
    path: str

    def __str__(self) -> str:
        return f"{self.repo!r} at {self.revision!r}"


def parse(address: str) -> HubAddress:
    """Takes an address apart.

    >>> parse("hf://org/name")
    HubAddress(repo='org/name', revision='main', path='')
    >>> parse("hf://org/name@refs%2Fpr%2F1/unet/model.safetensors")
    HubAddress(repo='org/name', revision='refs/pr/1', path='unet/model.safetensors')

    Raises:
        CheckpointError: It is none.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise _error(address, f"is no address of the Hugging Face Hub, which has the form {_FORM!r}")
    if "?" in address:
        # Nothing after it would be used, and messages must not show it.
        raise _error(address, f"has a query, but the form is {_FORM!r}; a token goes into HF_TOKEN")
    kind, _, name = found["repo"].partition("/")
    if kind.lower() in _OTHER_KINDS:
        raise _error(address, f"names one of the {kind}, not a repository of a model ({_FORM!r})")
    if {kind, name} & {".", ".."}:
        raise _error(address, f"is no address of the Hugging Face Hub, which has the form {_FORM!r}")
    revision, path = unquote(found["revision"] or "main"), (found["path"] or "").removesuffix("/")
    if reason := unsafe(revision):
        raise _error(address, f"names the revision {revision!r}, which {reason}")
    if path and (reason := unsafe(path)):
        raise _error(address, f"names the file {path!r}, which {reason}")
    return HubAddress(found["repo"], revision, path)


def _error(address: str, what: str) -> CheckpointError:
    return CheckpointError([Fault("checkpoint", f"{redacted(address)!r} {what}")])
