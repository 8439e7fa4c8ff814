"""Where values from files come from, what their keys mean, and what goes where."""

from lightning_init.checkpoint.inspection import Inspection, inspect
from lightning_init.checkpoint.matching.adapters import Adaptation, Misfit, register_adapter
from lightning_init.checkpoint.sources.registry import register_source

__all__ = ["Adaptation", "Inspection", "Misfit", "inspect", "register_adapter", "register_source"]
