"""Looks for what is remarkable in the signal of a probe.

*Dead.* A layer without parameters (an activation function) of which every unit, or more than a half and five standard
errors of its units, is zero for the whole batch. Behind a deep stack of ReLUs all inputs look alike, so each unit is
zero for all of them with probability one half at worst; n units then have a standard error of ``sqrt(1 / 4 n)``. What
was dead before the layer is told once, where it begins.

*Vanishing, exploding.* The std of the outputs over a run of layers with weights between two normalisation layers, which
set the forward signal anew; and the std of the gradients over all layers with weights, which no normalisation resets.
Both are looked at on the way that the signal goes. A run is remarked if it has at least `LEAST` layers, if the last std
is farther from the first than `FORWARD` (for gradients `BACKWARD`, since sums over positions, widths and means over a
batch change their size in healthy models as well), and if at least `STEADY` of its steps lead that way: so neither a
small head, nor a residual branch that starts near zero, nor the averaging of an attention layer is one. A healthy step
leaves the std about where it was, and takes either direction equally often. Beyond the square of the limit, nothing
healthy goes: hundreds of narrow layers get there by steps of either direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise

from lightning_init.report.findings import Code, Finding
from lightning_init.report.rows import Row
from lightning_init.report.signal import LayerSignal

__all__ = ["BACKWARD", "FORWARD", "LEAST", "STEADY", "is_about_gradients", "signal_findings"]

_GRADIENTS = "gradients"

LEAST = 6
"""Layers with weights that a run needs."""

FORWARD = 1e3
"""By which factor activations may shrink or grow over a run."""

BACKWARD = 1e5
"""By which factor gradients may shrink or grow from the last layer to the first."""

STEADY = 0.75
"""Which share of the steps of a run has to lead in its direction."""


def signal_findings(rows: Sequence[Row], signal: Sequence[LayerSignal], probe_error: str = "") -> list[Finding]:
    """What is remarkable.

    Args:
        rows: The parameters, which know the lines of the config that are to blame.
        signal: The layers, in the order of the forward pass.
        probe_error: Why they could not be measured.
    """
    if probe_error:
        return [
            Finding(
                "warning",
                "probe-failed",
                "",
                f"the signal could not be probed: {probe_error}",
                "give `probe` a batch that the module takes, or None",
            )
        ]
    sources = {row.name.rpartition(".")[0]: row.source for row in reversed(rows) if row.source is not None}
    found = _nonfinite(signal, sources)
    if found:
        return found
    found = _dead(signal)
    for run in _runs(signal):
        found += _trend(run, lambda layer: layer.std, FORWARD, "activations", sources)
    backward = [layer for layer in reversed(signal) if layer.kind == "weights" and layer.gradient_std > 0]
    return found + _trend(backward, lambda layer: layer.gradient_std, BACKWARD, _GRADIENTS, sources)


def is_about_gradients(finding: Finding) -> bool:
    """A trend in the gradients is what it tells of, and not one in the activations."""
    return finding.code in ("vanishing-signal", "exploding-signal") and f"of the {_GRADIENTS}" in finding.message


def _nonfinite(signal: Sequence[LayerSignal], sources: Mapping[str, str]) -> list[Finding]:
    for layer in signal:
        if not (math.isfinite(layer.mean) and math.isfinite(layer.std)):
            return [
                Finding(
                    "error",
                    "exploding-signal",
                    layer.name,
                    "its output holds NaN or infinity, the first on the way through the model",
                    "look at its weights and at what it was given, and lower the std of the layers before it",
                    sources.get(layer.name),
                )
            ]
    return []


def _dead(signal: Sequence[LayerSignal]) -> list[Finding]:
    found = []
    before = 0.0
    for layer in signal:
        most = min(1.0, 0.5 + 2.5 / math.sqrt(layer.units)) if layer.units else 1.0
        is_dead = layer.dead > most or layer.dead == 1
        if layer.kind == "other" and is_dead and before < 1:
            found.append(
                Finding(
                    "error" if layer.dead == 1 else "warning",
                    "dead-signal",
                    layer.name,
                    f"{layer.dead:.0%} of its {layer.units} units are zero for the whole batch",
                    "raise the bias of the layer before it, or check the scale of its weights",
                )
            )
        before = layer.dead
    return found


def _runs(signal: Sequence[LayerSignal]) -> list[list[LayerSignal]]:
    """The layers with weights between normalisation layers; those whose output is all one value are left out."""
    parts = [list(part) for _, part in groupby(signal, key=lambda layer: layer.kind == "norm")]
    runs = ([layer for layer in part if layer.kind == "weights" and layer.std > 0] for part in parts)
    return [run for run in runs if run]


def _trend(
    run: Sequence[LayerSignal],
    value: Callable[[LayerSignal], float],
    limit: float,
    what: str,
    sources: Mapping[str, str],
) -> list[Finding]:
    if len(run) < LEAST or not all(math.isfinite(value(layer)) for layer in run):
        return []
    first, last = value(run[0]), value(run[-1])
    grows = last > first
    steps = [(value(b) > value(a)) == grows and value(b) != value(a) for a, b in pairwise(run)]
    change = max(last / first, first / last)
    if change <= limit or (change <= limit**2 and sum(steps) < STEADY * len(steps)):
        return []
    rate = (last / first) ** (1 / len(steps))
    code: Code = "exploding-signal" if grows else "vanishing-signal"
    beyond = next(layer for layer in run if max(value(layer) / first, first / value(layer)) > limit)
    remedy = (
        "lower the std of these layers: Kaiming or Xavier keep the signal's size"
        if grows
        else "raise the std of these layers: Kaiming or Xavier keep the signal's size; or add normalisation"
    )
    return [
        Finding(
            "warning",
            code,
            beyond.name,
            f"the std of the {what} {'grows' if grows else 'shrinks'} from {first:.3g} at {run[0].name!r} to "
            f"{last:.3g} at {run[-1].name!r}, by a factor of {rate:.3g} a layer over {len(run)} layers",
            remedy,
            sources.get(beyond.name),
        )
    ]
