"""Values whose shape does not fit, made to fit: by name, each told."""

from lightning_init.checkpoint.matching.adapters.base import Adaptation, Adapter, Adapters, Misfit
from lightning_init.checkpoint.matching.adapters.registry import ADAPTERS, check_adapters, register_adapter

__all__ = ["ADAPTERS", "Adaptation", "Adapter", "Adapters", "Misfit", "check_adapters", "register_adapter"]
