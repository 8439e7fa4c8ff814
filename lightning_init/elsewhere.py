"""Weights that another library has loaded or initialised, recognised by what it leaves on modules.

None of these libraries is imported for it.

- ``transformers`` (5 and newer) marks every tensor that ``from_pretrained`` filled from a checkpoint; what the
  checkpoint lacked, such as a new head, has no mark. The marks are lost where a model is copied or sent to another
  process; then the model itself still tells that it was loaded, and all of it counts.
- ``timm`` leaves nothing that tells loaded weights from random ones, so every model that its ``create_model`` built
  counts as a whole.
- ``peft`` initialises its adapters so that they change nothing at first: the zero matrix of LoRA.
"""

from __future__ import annotations

import sys

from torch import nn

from lightning_init.slot import Slot
from lightning_init.tree import Node, Tree

__all__ = ["FILLERS", "LIBRARIES", "initialised_elsewhere"]

LIBRARIES = ("timm", "transformers")
"""Their models initialise themselves when they are built or loaded."""

_LOADED = "transformers (from_pretrained)"
_BUILT = "timm (create_model)"
_ADAPTER = "peft (an adapter)"

FILLERS = (_LOADED, _BUILT, _ADAPTER)
"""How reports name those who have filled a parameter."""


def initialised_elsewhere(tree: Tree) -> dict[Slot, str]:
    """The parameters of a tree that a library has filled already, and which one, in words."""
    found: dict[Slot, str] = {}
    classes = {type(node.module) for node in tree.nodes.values()}
    theirs = {cls for cls in classes if any(_is_of(library, cls) for library in (*LIBRARIES, "peft"))}
    nodes = [node for node in tree.nodes.values() if type(node.module) in theirs] if theirs else []
    for node in nodes:
        if _is_copy_of_loaded(node.module):
            found.update(dict.fromkeys(_parameters(tree, node), _LOADED))
        if _is_of("timm", type(node.module)) and "pretrained_cfg" in vars(node.module):
            found.update(dict.fromkeys(_parameters(tree, node), _BUILT))
    # What has not been imported has marked nothing.
    for slot in tree.slots if "transformers" in sys.modules else ():
        if slot.is_buffer:
            continue
        if any(map(_is_marked, slot.tensors)) if slot.parts else _is_marked(slot.tensor):
            found[slot] = _LOADED
    for node in nodes:
        for name in getattr(node.module, "adapter_layer_names", ()) if _is_of("peft", type(node.module)) else ():
            if name in node.children:
                found.update(dict.fromkeys(_parameters(tree, node.children[name]), _ADAPTER))
    # Without storage nothing can have been loaded.
    return {slot: by for slot, by in found.items() if not (slot.is_lazy or slot.is_meta)}


def _parameters(tree: Tree, node: Node) -> list[Slot]:
    return [slot for slot in tree.part(node) if not slot.is_buffer]


def _is_of(library: str, cls: type) -> bool:
    return any(base.__module__.partition(".")[0] == library for base in cls.__mro__)


def _is_marked(tensor: object) -> bool:
    return getattr(tensor, "_is_hf_initialized", False) is True


def _is_copy_of_loaded(module: nn.Module) -> bool:
    # `from_pretrained` leaves this attribute on the model, a constructor does not.
    loaded = _is_of("transformers", type(module)) and "_weight_conversions" in vars(module)
    return loaded and not any(map(_is_marked, module.parameters()))
