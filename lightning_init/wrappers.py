"""What stands around a user's module and does not count in names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

__all__ = ["class_name", "is_fsdp", "unwrap"]

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
        inner = next((WRAPPERS[name] for name in map(_class_path, type(module).__mro__) if name in WRAPPERS), None)
        if inner is None:
            return module
        wrapped = module._modules[inner]
        if wrapped is None:
            return module
        module = wrapped


def is_fsdp(module: nn.Module) -> bool:
    """It is FSDP1's wrapper, which makes one flat parameter of those inside."""
    return _FSDP in map(_class_path, type(module).__mro__)


def class_name(module: nn.Module) -> str:
    """The name of a module's class as the user wrote it; ``fully_shard`` puts one of its own in front."""
    return next(cls.__name__ for cls in type(module).__mro__ if not cls.__module__.startswith("torch.distributed.fsdp"))


def _class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
