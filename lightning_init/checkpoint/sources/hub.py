"""Checkpoints from the Hugging Face Hub and from its cache on this machine."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lightning_init.checkpoint.confined import leads_out
from lightning_init.checkpoint.folders import candidates, contents
from lightning_init.checkpoint.index import read_index
from lightning_init.checkpoint.sources.hub_address import HubAddress, parse
from lightning_init.checkpoint.sources.hub_errors import Unreachable, asked
from lightning_init.checkpoint.sources.registry import register_source
from lightning_init.checkpoint.sources.shards import INDEX
from lightning_init.errors import CheckpointError, Fault, checkpoint_error, did_you_mean
from lightning_init.text import quoted

__all__ = ["fetch"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


@register_source("hf")
def fetch(address: str, sha256: str | None) -> Path:
    """A checkpoint on the Hugging Face Hub, through the cache of ``huggingface_hub``.

    Without a file, the repository (or the folder in it) is searched as `lightning_init.checkpoint.folders` says. Of a
    sharded checkpoint all shards are fetched, of one commit. A Hub that cannot be asked is replaced by the cache.

    Args:
        address: ``hf://org/name[@revision][/path/in/repo]``.
        sha256: The expected hash, which only a single file can have.

    Returns:
        A file in the cache, or the index of shards that lie beside it.

    Raises:
        CheckpointError: The address is none, there is nothing of this name, it may not be read, or cannot be fetched.
    """
    wanted = parse(address)
    try:
        import huggingface_hub  # noqa: F401, PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise checkpoint_error(
            f"{address!r} needs huggingface_hub, which is not installed: pip install 'lightning-init[hub]'"
        ) from error
    repository = _look(wanted)
    name = repository.choose()
    path = repository.get(name)
    if name.endswith(INDEX):
        if sha256 is not None:
            what = (
                f"is the hash of one file, but {address!r} is {name!r} and its shards; pin a commit instead, with '@'"
            )
            raise CheckpointError([Fault("sha256", what)])
        repository.get_shards(name, path)
    return path


@dataclass(frozen=True)
class _Repository:
    """A repository at one revision, on the Hub or in the cache.

    Attributes:
        wanted: The address.
        names: The files in it.
        snapshot: Its folder in the cache, if the Hub cannot be asked.
        where: What holds these files, for messages.
    """

    wanted: HubAddress
    names: Collection[str]
    snapshot: Path | None
    where: str

    def choose(self) -> str:
        """The file to read: the one that the address names, or the preferred one in the folder."""
        path = self.wanted.path
        if path in self.names:
            return path
        folder = f"{path}/" if path else ""
        inside = [name.removeprefix(folder) for name in self.names if name.startswith(folder)]
        if path and not inside:
            raise checkpoint_error(f"{self.where} has no file {path!r}; {did_you_mean(path, self.names)}")
        found = candidates([name for name in inside if "/" not in name])
        place = f"{self.where}, in {path!r}," if path else self.where
        if not found:
            raise checkpoint_error(f"{place} has no checkpoint; it has {contents(inside)}")
        if len(found) > 1:
            raise checkpoint_error(f"{place} has several checkpoints; name one of them: {contents(found)}")
        return folder + found[0]

    def get(self, name: str, commit: str | None = None) -> Path:
        """A file, fetched if it is not there yet."""
        path = self._download(name, commit or self.wanted.revision) if self.snapshot is None else self.snapshot / name
        outside = leads_out(path, path)
        if outside is not None:
            raise checkpoint_error(
                f"{name!r} of {self.wanted} is in the cache as {str(path)!r}, a link that leads out of the cache, to "
                f"{str(outside)!r}; delete the link, so that the file is fetched again"
            )
        return path

    def _download(self, name: str, revision: str) -> Path:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        try:
            return Path(asked(self.wanted, lambda: hf_hub_download(self.wanted.repo, name, revision=revision)))
        except Unreachable as unreachable:
            raise checkpoint_error(f"{name!r} of {self.wanted} cannot be fetched: {unreachable}") from None

    def get_shards(self, name: str, path: Path) -> None:
        """All shards of an index, of the commit that the index is of."""
        index = read_index(path)
        if index.faults:
            raise CheckpointError(index.faults)
        shards = {str(PurePosixPath(name).parent / shard): keys for shard, keys in index.shards.items()}
        missing = [
            Fault(
                "checkpoint",
                f"{self.where} has no file {shard!r}, which its index {name!r} names; it should hold {quoted(keys)}",
            )
            for shard, keys in shards.items()
            if shard not in self.names
        ]
        if missing:
            raise CheckpointError(missing)
        # The folder of a snapshot has the name of its commit.
        commit = path.parents[name.count("/")].name
        for shard in shards:
            self.get(shard, commit)


def _look(wanted: HubAddress) -> _Repository:
    """The files of a repository, from the Hub if it can be asked, else from the cache."""
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    if snapshot := _pinned(wanted):
        return _Repository(wanted, [wanted.path], snapshot, f"the cache of {wanted}")
    try:
        info = asked(
            wanted,
            lambda: HfApi().model_info(wanted.repo, revision=wanted.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT),
        )
    except Unreachable as unreachable:
        snapshot = _cached(wanted)
        if snapshot is None:
            raise checkpoint_error(
                f"{unreachable}, and the cache {constants.HF_HUB_CACHE!r} holds nothing of {wanted}"
            ) from None
        names = [file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()]
        return _Repository(wanted, names, snapshot, f"the cache of {wanted} ({unreachable})")
    return _Repository(wanted, [file.rfilename for file in info.siblings or ()], None, f"the repository {wanted}")


def _pinned(wanted: HubAddress) -> Path | None:
    """The folder of the commit that the address names, if it holds the one file that is wanted: it cannot change."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

    if not wanted.path or wanted.path.endswith(INDEX) or not _COMMIT.fullmatch(wanted.revision):
        return None
    found = asked(wanted, lambda: try_to_load_from_cache(wanted.repo, wanted.path, revision=wanted.revision))
    return Path(found).parents[wanted.path.count("/")] if isinstance(found, str) else None


def _cached(wanted: HubAddress) -> Path | None:
    """The folder of a revision in the cache, with what has been fetched of it so far."""
    from huggingface_hub import errors, snapshot_download  # noqa: PLC0415

    try:
        return Path(snapshot_download(wanted.repo, revision=wanted.revision, local_files_only=True))
    except errors.LocalEntryNotFoundError as error:
        # Newer versions tell apart what is there in part.
        found = getattr(error, "snapshot_path", None)
        return Path(found) if found else None
