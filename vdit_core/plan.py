"""The attention plan: every edit of both papers in one normal form.

For head h of batch row b,

    out = gate · M V,   M = (1 − w_I − w_U) · A + w_I · I + w_U · U,
    A = (1 − s) · P(own) + s · P(source),   P = softmax(threshold(S / T)),   S = c · Q Kᵀ

A plan holds these numbers for one call and nothing else. All tensors live on the CPU and are tiny.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

WHOLE = 2**31  # as many tokens as a prompt has: more than any sequence
Region = Literal["all", "video→video"]
REGIONS: tuple[Region, ...] = ("all", "video→video")


@dataclass(frozen=True)
class Source:
    """Whose Q and K a row uses. rows: [B] int64. strength: [B, H] in 0..1, 0 = its own."""

    rows: Tensor
    strength: Tensor
    region: Region = "all"


@dataclass(frozen=True)
class MapMix:
    """Weights of the identity and the uniform map beside the softmax map, each [B, H] in 0..1."""

    identity: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class Blocks:
    """Blocks of `size` queries × `size` keys. kept: [B, H, nq, nk] bool, None = by this map's mass.

    reuse: for how many steps a choice of blocks may serve.
    """

    size: int = 64
    reuse: int = 1
    kept: Tensor | None = None


@dataclass(frozen=True)
class Threshold:
    """Drop the smallest weights of a head. rate: [B, H], the share to drop; 0 leaves it dense.

    weights: [B, H] below which a weight is dropped; None = the quantile `rate` of this very map.
    two_run: the weights are to come from a dense evaluation of the model before this one.
    blocks: whole blocks of queries × keys are dropped instead, those of least mass.
    """

    rate: Tensor
    renormalize: bool = True
    weights: Tensor | None = None
    two_run: bool = False
    blocks: Blocks | None = None


@dataclass(frozen=True)
class AttentionPlan:
    """What one attention call does; `None` leaves the field as the model has it.

    temperature: [B, H] > 0, divides the scores. gate: [B, H], multiplies the output. text: [B, H]
    int64, how many tokens of the prompt are keys, from its first on; the run makes it a mask.
    """

    source: Source | None = None
    temperature: Tensor | None = None
    map: MapMix | None = None
    threshold: Threshold | None = None
    gate: Tensor | None = None
    text: Tensor | None = None

    @property
    def empty(self) -> bool:
        return all(getattr(self, field.name) is None for field in fields(self))

    def of_heads(self, heads: Tensor) -> AttentionPlan:
        """The plan of some heads only, [n] int64."""
        source, mix, thin = self.source, self.map, self.threshold
        if thin is not None and thin.blocks is not None:
            blocks = replace(thin.blocks, kept=_of(thin.blocks.kept, heads))
            thin = replace(thin, blocks=blocks)
        return AttentionPlan(
            source and replace(source, strength=source.strength[:, heads]),
            _of(self.temperature, heads),
            mix and MapMix(mix.identity[:, heads], mix.uniform[:, heads]),
            thin and replace(thin, rate=thin.rate[:, heads], weights=_of(thin.weights, heads)),
            _of(self.gate, heads),
            _of(self.text, heads),
        )

    def scaled(self, temperature: Tensor) -> AttentionPlan:
        """Multiply the temperatures by [B, H]."""
        own = self.temperature
        return replace(self, temperature=temperature if own is None else own * temperature)

    def gated(self, gate: Tensor) -> AttentionPlan:
        """Multiply the gates by [B, H]."""
        return replace(self, gate=gate if self.gate is None else self.gate * gate)

    def showing(self, text: Tensor) -> AttentionPlan:
        """Hide all but the first tokens of the prompt, [B, H] int64; the fewest asked for count."""
        own = self.text
        return replace(self, text=text if own is None else torch.minimum(text, own))

    def mixed(self, chosen: Tensor, mix: MapMix) -> AttentionPlan:
        """Set the map mixture where chosen [B, H]; the rest keeps what it had."""
        if (own := self.map) is None:
            own = MapMix(torch.zeros_like(mix.identity), torch.zeros_like(mix.uniform))
        return replace(
            self,
            map=MapMix(
                torch.where(chosen, mix.identity, own.identity),
                torch.where(chosen, mix.uniform, own.uniform),
            ),
        )

    def sourced(self, chosen: Tensor, source: Source) -> AttentionPlan:
        """Set the source where chosen [B, H]; the rest keeps what it had."""
        if self.source is None:
            strength = torch.where(chosen, source.strength, 0.0)
        else:
            strength = torch.where(chosen, source.strength, self.source.strength)
        return replace(self, source=replace(source, strength=strength))

    def thinned(self, chosen: Tensor, threshold: Threshold) -> AttentionPlan:
        """Set the threshold rate where chosen [B, H]; the rest keeps what it had."""
        own = torch.zeros_like(threshold.rate) if self.threshold is None else self.threshold.rate
        rate = torch.where(chosen, threshold.rate, own)
        dense = not bool((rate > 0).any())
        return replace(self, threshold=None if dense else replace(threshold, rate=rate))


UNTOUCHED = AttentionPlan()


def _of(values: Tensor | None, heads: Tensor) -> Tensor | None:
    return None if values is None else values[:, heads]
