"""The attention plan: every edit of both papers in one normal form.

For head h of batch row b,

    out = m · gate · M V + (1 − m) · out(source),   M = (1 − w_I − w_U) · A + w_I · I + w_U · U,
    A = (1 − s) · P(own) + s · P(source),   P = softmax(threshold(S / T)),   S = c · Q Kᵀ

where m is a number per token and out(source) the output of another row of the same call.

A plan holds these numbers for one call and nothing else, once for all tokens and, where the video
shares its attention with text, once more for the video among itself. All tensors live on the CPU
and are tiny.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

WHOLE = 2**31  # as many tokens as a prompt has: more than any sequence
REGIONS = ("all", "video→video")


@dataclass(frozen=True)
class Source:
    """Whose Q and K a row uses. rows: [B] int64. strength: [B, H] in 0..1, 0 = its own."""

    rows: Tensor
    strength: Tensor


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
class Blend:
    """Whose output a row takes for its own, token by token. rows: [B] int64. heads: [B, H] bool.

    own: the share in 0..1 that stays its own, as the edit gives it [F, H, W], of the places of a
    latent; once it is placed [Lq], of the tokens.
    """

    rows: Tensor
    heads: Tensor
    own: Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """What one attention call does; `None` leaves the field as the model has it.

    temperature: [B, H] > 0, divides the scores. gate: [B, H], multiplies the output. text: [B, H]
    int64, how many tokens of the prompt are keys, from its first on; the run makes it a mask.
    video: what the video does among itself, on top of the rest. span: where it lies, once placed.
    blend: whose output stands in for the own one, where and how much.
    """

    source: Source | None = None
    temperature: Tensor | None = None
    map: MapMix | None = None
    threshold: Threshold | None = None
    gate: Tensor | None = None
    text: Tensor | None = None
    video: AttentionPlan | None = None
    span: slice | None = None
    blend: Blend | None = None

    @property
    def empty(self) -> bool:
        return all(getattr(self, field.name) is None for field in fields(self))

    @property
    def idle(self) -> bool:
        """Whether its fields, if it has any, leave every row and head as the model has them."""
        inner = replace(self, text=None, video=None, span=None)
        if self.text is not None or not (self.video is None or self.video.idle):
            return False
        return inner.empty or not bool(inner.touched.any())

    @property
    def touched(self) -> Tensor:
        """Rows and heads that a field changes, [B, H] bool. For a plan that is not empty."""
        found: list[Tensor] = []
        if self.source is not None:
            found.append(self.source.strength != 0)
        if self.temperature is not None:
            found.append(self.temperature != 1)
        if self.map is not None:
            found.append((self.map.identity != 0) | (self.map.uniform != 0))
        if self.threshold is not None:
            found.append(self.threshold.rate > 0)
        if self.gate is not None:
            found.append(self.gate != 1)
        if self.blend is not None:
            found.append(self.blend.heads)
        return torch.stack(found).any(0)

    def within(
        self, region: str, change: Callable[[AttentionPlan], AttentionPlan]
    ) -> AttentionPlan:
        """Change the plan of all tokens, or that of the video among itself."""
        if region == "all":
            return change(self)
        inner = change(self.video or UNTOUCHED)
        if inner.empty:
            return replace(self, video=None, span=None)
        return replace(self, video=inner)

    def placed(self, span: slice) -> AttentionPlan:
        """The same plan for a sequence whose video tokens are known."""
        return replace(self, span=span)

    @property
    def alone(self) -> AttentionPlan:
        """What the video does among itself, as a plan for its tokens without any others."""
        assert self.video is not None
        inner, outer = self.video, self.source
        if inner.source is None:
            inner = replace(inner, source=outer)
        elif outer is not None:
            assert torch.equal(inner.source.rows, outer.rows)
            strength = torch.maximum(inner.source.strength, outer.strength)
            inner = replace(inner, source=replace(outer, strength=strength))
        return inner if self.temperature is None else inner.scaled(self.temperature)

    @property
    def ungated(self) -> AttentionPlan:
        """The plan of the map, of which gates are no part."""
        plan = replace(self, gate=None)
        if plan.video is None:
            return plan
        return plan.within("video→video", lambda part: replace(part, gate=None))

    @property
    def thinning(self) -> Threshold | None:
        """The threshold, of all tokens or of the video among itself."""
        return self.threshold or (self.video and self.video.threshold)

    def with_thinning(self, threshold: Threshold | None) -> AttentionPlan:
        """The plan with another threshold in the place of its own."""
        region = "all" if self.video is None or self.threshold is not None else "video→video"
        return self.within(region, lambda plan: replace(plan, threshold=threshold))

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
            self.video and self.video.of_heads(heads),
            self.span,
        )

    def of_rows(self, first: int) -> AttentionPlan:
        """The plan of the rows from one on, which is to have no source and no region."""
        assert self.source is None and self.video is None
        mix, thin = self.map, self.threshold
        if thin is not None and thin.blocks is not None and thin.blocks.kept is not None:
            thin = replace(thin, blocks=replace(thin.blocks, kept=thin.blocks.kept[first:]))
        return AttentionPlan(
            temperature=_from(self.temperature, first),
            map=mix and MapMix(mix.identity[first:], mix.uniform[first:]),
            threshold=thin
            and replace(thin, rate=thin.rate[first:], weights=_from(thin.weights, first)),
            gate=_from(self.gate, first),
            text=_from(self.text, first),
        )

    def scaled(self, temperature: Tensor) -> AttentionPlan:
        """Multiply the temperatures by [B, H]."""
        own = self.temperature
        return replace(self, temperature=temperature if own is None else own * temperature)

    def gated(self, gate: Tensor) -> AttentionPlan:
        """Multiply the gates by [B, H]."""
        return replace(self, gate=gate if self.gate is None else self.gate * gate)

    def blended(self, blend: Blend) -> AttentionPlan:
        """Let the blend's heads take another row's output beside their own."""
        if self.blend is not None:
            blend = replace(blend, heads=blend.heads | self.blend.heads)
        return replace(self, blend=blend)

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


def _from(values: Tensor | None, first: int) -> Tensor | None:
    return None if values is None else values[first:]
