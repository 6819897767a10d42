"""Attention planted in tiny real models: chosen heads are sinks, chosen layers local, others flat.

Only weights are edited, so the planted maps meet whatever samples the model. Channels of the
residual stream that no block changes are taken for it: CONSTANT is the same in every token, and so
large that the norms divide every token by nearly the same number; MARKED is MARK in one token (a
place of the noise in Wan, the first token of the prompt in Mochi) and small elsewhere. Constant
queries that meet keys made of MARKED are a sink, whose value is made to vanish; constant queries
and keys, turned by their places, are local.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .tiny_wan import COLS, HEADS, ROWS, Conditioning

MARK = 6.0
SHARPNESS = 2.0  # score of a sink head per unit of MARKED: 12 for the marked token
FLAT = 0.02  # weight of the norm of queries in flat heads
SIZE = 100.0  # of CONSTANT
BULK = 10.0  # of a sink head's keys: their norm then hardly depends on MARKED
MARKED, CONSTANT, OPPOSITE = 0, 1, 2  # OPPOSITE is −CONSTANT and keeps a token's mean at zero
OWN = slice(0, 3)

# Channels of a head come in pairs, turned by their place. SLOW hardly turns, STEADY meets nothing.
# The others: how much of the score is lost where the turned channels no longer agree.
WAN_CONFIG: dict[str, Any] = {"dim": 24 * HEADS}  # narrower heads tell far columns badly
WAN_SLOW, WAN_STEADY = 6, 4
WAN_LOCAL = {0: 12.0, 8: 12.0, 10: 40.0, 16: 12.0, 18: 40.0}  # time, rows, cols: 1 and 0.1 rad
MOCHI_SLOW, MOCHI_STEADY = 0, 2
MOCHI_LOCAL = {4: 12.0, 6: 12.0, 8: 12.0, 10: 12.0, 12: 12.0}
MOCHI_TURNS = {2: (0, 1.0), 3: (1, 1.0), 4: (1, 0.25), 5: (2, 1.0), 6: (2, 0.25)}  # axis, radians
MOCHI_SPAN = 36864**0.5  # of rows and columns, whatever their number

Sinks = Mapping[int, Collection[int]]  # layer: its sink heads


def marked_noise(noise: Tensor, token: int) -> Tensor:
    """Noise [B, C, F, R, C] for a planted Wan whose sink shall be video token `token`."""
    out = noise.clone()
    out[:, MARKED].flatten(1)[:, token] = MARK
    return out


def marked_prompt(conditioning: Conditioning) -> Conditioning:
    """A prompt for a planted Mochi, whose sink is always the first text token."""
    ((text, extras),) = conditioning
    text = text.clone()
    text[..., MARKED] = 0.0
    text[:, 0, MARKED] = MARK
    return [[text, extras]]


def plant_wan(
    model: ModelPatcher,
    sinks: Sinks,
    local: Collection[int] = (),
    sharpness: float = SHARPNESS,
) -> None:
    """Edit a Wan with patches of 1 and heads of 24 channels: `tiny_wan(**WAN_CONFIG)`."""
    network: Any = model.model.diffusion_model
    heads = network.num_heads
    _embed(network.patch_embedding)
    _clear(network.head.head, MARKED)  # so the sampler leaves that channel of the latent alone
    _clear(network.time_projection[1], slice(0, 2), OWN, parts=6)  # neither shifted nor scaled
    for layer, block in enumerate(network.blocks):
        block.modulation.data[:, :2, OWN] = 0.0
        attention = block.self_attn
        for linear in (attention.o, block.cross_attn.o, block.ffn[2]):
            _clear(linear, OWN)
        q, k, v = (_projections(x, heads)[0] for x in (attention.q, attention.k, attention.v))
        norms = [x.weight.data.view(heads, -1) for x in (attention.norm_q, attention.norm_k)]
        if layer in local:
            _make_local([q, k], norms, WAN_LOCAL)
            continue
        chosen = sinks.get(layer, ())
        together = network.dim // max(1, len(chosen))  # the norms take all heads together
        _make_sinks(q, k, v, norms, chosen, together, WAN_SLOW, WAN_STEADY, sharpness)


def plant_mochi(
    model: ModelPatcher,
    sinks: Sinks,
    local: Collection[int] = (),
    places: int = ROWS * COLS,
) -> None:
    """Edit a Mochi with heads of 14 channels or more. places: tokens of one frame."""
    network: Any = model.model.diffusion_model
    heads = network.num_heads
    _embed(network.x_embedder.proj)
    _embed(network.t5_yproj)
    network.pos_frequencies.data.zero_()
    for pair, (axis, radians) in MOCHI_TURNS.items():
        unit = MOCHI_SPAN / places**0.5 if axis else 1.0
        network.pos_frequencies.data[axis, :, pair] = radians / unit
    for layer, block in enumerate(network.blocks):
        _clear(block.mod_x, [0, 1, 3], OWN, parts=4)  # neither scaled nor added to
        _clear(block.mod_y, [0, 1, 3] if block.update_y else [0], OWN, parts=3 * block.update_y + 1)
        attention = block.attn
        (q, k_x, _), (q_y, k, v) = (
            _projections(x, heads, parts=3) for x in (attention.qkv_x, attention.qkv_y)
        )
        names = ("q_norm_x", "k_norm_x", "q_norm_y", "k_norm_y")
        norms = [getattr(attention, name).weight.data.view(1, -1) for name in names]
        attention.q_norm_y.weight.data.fill_(FLAT)
        if layer in local:
            _make_local([q, k_x], norms[:2], MOCHI_LOCAL)
            for head in range(heads):
                k.write(head)
            continue
        chosen = sinks.get(layer, ())
        _make_sinks(q, k, v, norms[::3], chosen, q.weight.shape[1], MOCHI_SLOW, MOCHI_STEADY)
        for head in chosen:
            k_x.write(head, (MOCHI_STEADY, CONSTANT, BULK))
            q_y.write(head, (MOCHI_STEADY, CONSTANT, 1.0))


@dataclass(frozen=True)
class Projection:
    """q, k or v of one stream: weight [H, D, channels] and bias [H, D] or None, the model's own."""

    weight: Tensor
    bias: Tensor | None

    @property
    def constant(self) -> float:
        """What CONSTANT is in this stream after its norm."""
        return (self.weight.shape[-1] / 2) ** 0.5

    def write(self, head: int, *entries: tuple[int, int, float]) -> None:
        """Make a head of these alone: (channel of the head, channel of the stream, factor)."""
        self.weight[head] = 0.0
        if self.bias is not None:
            self.bias[head] = 0.0
        for row, channel, factor in entries:
            self.weight[head, row, channel] = factor


def _make_sinks(
    q: Projection,
    k: Projection,
    v: Projection,
    norms: list[Tensor],
    chosen: Collection[int],
    together: int,
    slow: int,
    steady: int,
    sharpness: float = SHARPNESS,
) -> None:
    """norms: weights [H or 1, D] for q and k. together: channels that share a norm, per sink."""
    heads, width = q.weight.shape[:2]
    query_norm, key_norm = norms
    query_norm.fill_(FLAT)
    for head in range(heads):
        if head not in chosen:
            for part in (q, k, v):
                part.weight[head, :, OWN] = 0.0
            q.weight[head, slow] = 0.0
            continue
        q.write(head, (slow, CONSTANT, 1.0))
        k.write(head, (slow, MARKED, 1.0), (steady, CONSTANT, BULK))
        signs = [(-1.0) ** row for row in range(width)]  # the value is ± (MARK − MARKED)
        v.write(
            head,
            *((row, CONSTANT, sign * MARK / v.constant) for row, sign in enumerate(signs)),
            *((row, MARKED, -sign) for row, sign in enumerate(signs)),
        )
        own = head % len(query_norm)
        query_norm[own, slow] = 1.0
        key_norm[own, slow] = sharpness * width**0.5 * BULK * k.constant / together


def _make_local(
    projections: list[Projection], norms: list[Tensor], losses: dict[int, float]
) -> None:
    """Every head of q and k becomes the same constant, turned by its place."""
    heads, width = projections[0].weight.shape[:2]
    for part, norm in zip(projections, norms, strict=True):
        for head in range(heads):
            part.write(head, *((row, CONSTANT, 1.0) for row in losses))
        for row, loss in losses.items():
            norm[:, row] = (loss * len(losses) / width**0.5) ** 0.5


def _embed(linear: Any) -> None:
    """Let the first layer of a stream fill the channels OWN; nothing else sees input MARKED."""
    weight, bias = linear.weight.data.flatten(1), linear.bias.data
    weight[OWN] = 0.0
    weight[:, MARKED] = 0.0
    weight[MARKED, MARKED] = SIZE / (len(weight) / 2) ** 0.5  # what the norms divide by
    bias[MARKED], bias[CONSTANT], bias[OPPOSITE] = 0.0, SIZE, -SIZE


def _clear(linear: Any, *rows: Any, parts: int = 0) -> None:
    """Let outputs of a layer be zero; with `parts`, outputs of some of its equal parts."""
    for _, values in linear.named_parameters():
        (values.data.unflatten(0, (parts, -1)) if parts else values.data)[rows] = 0.0


def _projections(linear: Any, heads: int, parts: int = 1) -> list[Projection]:
    weight, bias = linear.weight.data, linear.bias
    weights = weight.view(parts, heads, -1, weight.shape[1])
    biases = [None] * parts if bias is None else bias.data.view(parts, heads, -1)
    return [Projection(w, b) for w, b in zip(weights, biases, strict=True)]
