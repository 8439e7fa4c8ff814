"""What stands around a user's module and does not count in names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from functools import lru_cache

from torch import nn

__all__ = ["class_name", "class_of", "every_module", "is_fsdp", "of_classes", "unwrap"]

_FSDP = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"

# Recognised by the name of a class, so that torch._dynamo and friends are not imported for it.
WRAPPERS: Mapping[str, str] = {
    "lightning.fabric.wrappers._FabricModule": "_original_module",
    "lightning_fabric.wrappers._FabricModule": "_original_module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": "_checkpoint_wrapped_module",
    _FSDP: "_fsdp_wrapped_module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
}


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside DDP, FSDP, ``torch.compile`` and checkpoint wrappers, which are known by their class."""
    while True:
        inner = _attribute_of_wrapped(class_of(module))
        if inner is None:
            return module
        wrapped = module._modules[inner]
        if wrapped is None:
            return module
        module = wrapped


def every_module(module: nn.Module) -> list[nn.Module]:
    """A module and all below it, wrappers included, each once: ``modules()``, which takes a generator for each."""
    found: dict[nn.Module, None] = {}
    waiting = [module]
    while waiting:
        part = waiting.pop()
        if part not in found:
            found[part] = None
            if part._modules:
                waiting += [child for child in reversed(part._modules.values()) if child is not None]
    return list(found)


def of_classes(modules: Collection[nn.Module], is_meant: Callable[[type], bool]) -> list[nn.Module]:
    """The modules whose class is meant; a model has many modules and few classes."""
    meant = set(filter(is_meant, set(map(type, modules))))
    return [module for module in modules if type(module) in meant] if meant else []


def is_fsdp(cls: type) -> bool:
    """It is the class of FSDP1's wrapper, which makes one flat parameter of those inside."""
    return _attribute_of_wrapped(cls) == WRAPPERS[_FSDP]


def class_name(module: nn.Module) -> str:
    """The name of a module's class as the user wrote it; ``fully_shard`` puts one of its own in front."""
    return _own_class(class_of(module)).__name__


def class_of(module: nn.Module) -> Hashable:
    """The class of a module, as a key: a model has many modules and few classes."""
    return type(module)  # type: ignore[return-value]  # mypy takes it for unhashable


@lru_cache(maxsize=1024)
def _attribute_of_wrapped(cls: type) -> str | None:
    """Where the modules of a class hold the one that they wrap; None if they are no wrappers."""
    return next((WRAPPERS[name] for name in map(_class_path, cls.__mro__) if name in WRAPPERS), None)


@lru_cache(maxsize=1024)
def _own_class(cls: type) -> type:
    return next(base for base in cls.__mro__ if not base.__module__.startswith("torch.distributed.fsdp"))


def _class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
