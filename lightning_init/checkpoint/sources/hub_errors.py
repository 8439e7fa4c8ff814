"""What the errors of ``huggingface_hub`` mean for somebody who wants a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lightning_init.checkpoint.sources.addresses import redacted, scrub
from lightning_init.checkpoint.sources.hub_address import HubAddress
from lightning_init.errors import CheckpointError, checkpoint_error, did_you_mean

__all__ = ["Unreachable", "asked"]

T = TypeVar("T")

# A server that is there, but says "not now" or is broken: the cache may help.
_NOT_NOW = (408, 429)
_BROKEN = 500

_LOG_IN = "log in with 'hf auth login' or set HF_TOKEN"


class Unreachable(Exception):  # noqa: N818 - a state of the world, for which the cache stands in
    """The Hub cannot be asked; says why."""


def asked(wanted: HubAddress, ask: Callable[[], T]) -> T:
    """What a function of ``huggingface_hub`` returns.

    Raises:
        CheckpointError: The Hub says no, or the cache cannot be written to.
        Unreachable: The Hub cannot be asked.
    """
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - its transports have errors of their own, and they change
        failure = _translated(wanted, error)
    # Not in the handler: the errors of the library hold the request, and with it the token.
    raise failure


def _translated(wanted: HubAddress, error: Exception) -> CheckpointError | Unreachable:
    from huggingface_hub import constants, errors  # noqa: PLC0415 - an extra

    hub = f"the Hub at {redacted(constants.ENDPOINT)!r}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Unreachable("HF_HUB_OFFLINE is set")
    if isinstance(error, errors.HfHubHTTPError):
        what = _refusal(wanted, error, hub)
        return Unreachable(f"{hub} cannot be asked ({_reason(error)})") if what is None else checkpoint_error(what)
    if isinstance(error, errors.HFValidationError):
        return checkpoint_error(f"{wanted.repo!r} is no name of a repository: {_reason(error)}")
    # What goes wrong on the way is wrapped by the transports and has no number; this is the disk.
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
        return checkpoint_error(f"{wanted} cannot be kept in the cache {constants.HF_HUB_CACHE!r}: {error.strerror}")
    return Unreachable(f"{hub} cannot be asked ({_reason(error.__cause__ or error)})")


def _refusal(wanted: HubAddress, error: Exception, hub: str) -> str | None:
    """What an answer of the Hub means; None if another time or another place may do."""
    from huggingface_hub import errors  # noqa: PLC0415

    # The gated one is a kind of the one after it.
    if isinstance(error, errors.GatedRepoError):
        return f"{wanted.repo!r} is gated: ask for access on its page on {hub}, then {_LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{hub} has no repository {wanted.repo!r}, or it is private: check the name, or {_LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {wanted.repo!r} has no revision {wanted.revision!r}{_revisions(wanted)}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository {wanted} has lost a file meanwhile ({_reason(error)}); try again"
    status = _status(error)
    if status in _NOT_NOW or status >= _BROKEN:
        return None
    advice = f"; the token is wrong or too old: {_LOG_IN}" if status == 401 else ""
    return f"{hub} refuses {wanted} ({_reason(error)}){advice}"


def _revisions(wanted: HubAddress) -> str:
    from huggingface_hub import HfApi  # noqa: PLC0415

    try:
        refs = HfApi().list_repo_refs(wanted.repo)
    except Exception:  # noqa: BLE001 - the message is complete without them
        return ""
    return f"; {did_you_mean(wanted.revision, [ref.name for ref in (*refs.branches, *refs.tags)])}"


def _status(error: BaseException) -> int:
    found = getattr(getattr(error, "response", None), "status_code", 0)
    return found if isinstance(found, int) else 0


def _reason(error: BaseException) -> str:
    """The first line of an error, without anything secret."""
    from huggingface_hub import constants, get_token  # noqa: PLC0415

    said = getattr(error, "server_message", None)
    if status := _status(error):
        text = f"HTTP {status}" + (f": {said}" if said else "")
    else:
        text = f"{type(error).__name__}: {error}"
    text = scrub(" ".join(text.split("\n")[0].split()), constants.ENDPOINT)
    token = get_token()
    return text.replace(token, "***") if token else text
