"""The first batch of a data loader, which the loader does not notice.

No iterator of the loader is made, so no worker starts and none that runs already is asked. What a `DataLoader` would do
is done here: its batch sampler is copied, with the generators, and asked for the first indices; a dataset of a map is
asked for these items; an iterable dataset is copied, and its copy is read. A dataset whose ``__getitem__`` changes it
is the one thing that can tell.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_init.errors import InitError

__all__ = ["first_batch"]


def first_batch(loaders: Any) -> Any:
    """The first batch.

    Args:
        loaders: A data loader, another iterable of batches, or a tuple, list or mapping of these.

    Returns:
        The batch, or a tuple, list or mapping of them.

    Raises:
        InitError: There is none, or what would be read cannot be copied first.
    """
    if isinstance(loaders, Mapping):
        return {name: first_batch(loader) for name, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        return type(loaders)(first_batch(loader) for loader in loaders)
    if isinstance(loaders, DataLoader):
        return _first_of(loaders)
    return _next(_copied(loaders, {}))


def _first_of(loader: DataLoader[Any]) -> Any:
    dataset: Any = loader.dataset
    # The sampler knows the dataset, which is not copied, and generators, which are.
    memo: dict[int, Any] = {id(dataset): dataset}
    for holder in (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            memo.setdefault(id(generator), generator.clone_state())
    collate: Any = loader.collate_fn
    if isinstance(dataset, IterableDataset):
        items = iter(_copied(dataset, {}))
        return collate(list(islice(items, loader.batch_size)) if loader.batch_size is not None else _next(items))
    if loader.batch_sampler is None:
        return collate(dataset[_next(_copied(loader.sampler, memo))])
    indices = _next(_copied(loader.batch_sampler, memo))
    fetch = getattr(dataset, "__getitems__", None)
    return collate(fetch(indices) if fetch is not None else [dataset[index] for index in indices])


def _copied(iterable: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(iterable, memo)
    except Exception as error:
        raise InitError(
            f"{type(iterable).__name__} cannot be copied ({error}), and reading it would take a batch from the training"
        ) from error


def _next(iterable: Iterable[Any]) -> Any:
    for item in iterable:
        return item
    raise InitError(f"{type(iterable).__name__} is empty")
