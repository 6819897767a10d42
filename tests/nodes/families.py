"""Tiny real models of every family: ComfyUI's own classes with random weights, 3 layers of 4 heads.

Latents are 3 × 5 × 7 tokens whatever the patches; prompts have the width and the extras that the
family's own text encoder gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.ldm.modules.attention as core
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import pytest
import torch
from comfy.ldm.genmo.joint_model.layers import FeedForward
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from vdit_attention.tests.nodes import tiny
from vdit_attention.tests.nodes.tiny import COLS, FRAMES, HEADS, ROWS, Conditioning
from vdit_attention.tests.oracle import Case, Wish, no_wish

LAYERS = tiny.LAYERS
TEXT_WIDTH = 24
VIDEO = tiny.TOKENS


def numbered(name: str, layers: int = LAYERS) -> tuple[str, ...]:
    return tuple(name.format(layer) for layer in range(layers))


@dataclass(frozen=True)
class Family:
    """How to make and prompt one. channels, patch: of its latents. text_first: order of tokens.

    module: the file of core that calls the attention. pooled: width of a prompt's pooled vector.
    masked: whether its text encoder pads every prompt and says so in a mask. sites: of its layers.
    grid: frames, rows and columns. prefix, suffix: tokens before and after the video, less those
    of joint text. sampled_from: the first frame that is not given. since: the first ComfyUI that
    takes what is given here.
    """

    name: str
    module: str
    make: Callable[..., ModelPatcher]
    channels: int
    patch: tuple[int, int, int]
    text_first: bool
    pooled: int = 0
    masked: bool = False
    sites: tuple[str, ...] = numbered("blocks.{}.self_attn")
    grid: tuple[int, int, int] = (FRAMES, ROWS, COLS)
    prefix: int = 0
    suffix: int = 0
    sampled_from: int = 0
    since: str = "0.16"

    def latent(self, batch: int = 1) -> dict[str, Any]:
        size = [n * p for n, p in zip(self.grid, self.patch, strict=True)]
        return {"samples": torch.zeros(batch, self.channels, *size)}

    def prompt(self, seed: int, tokens: int = 6, padded: int = 11) -> Conditioning:
        """One prompt; with a mask if the family's encoder pads and masks."""
        generator = torch.Generator().manual_seed(seed)
        length = padded if self.masked else tokens
        text = torch.randn(1, length, TEXT_WIDTH, generator=generator)
        extras: dict[str, Any] = {}
        if self.masked:
            extras["attention_mask"] = (torch.arange(length) < tokens).long()[None]
        if self.pooled:
            extras["pooled_output"] = torch.randn(1, self.pooled, generator=generator)
        return [[text, extras]]

    def sample(self, model: ModelPatcher, **how: Any) -> Tensor:
        """What a KSampler node does."""
        how = {"positive": self.prompt(1), "negative": self.prompt(2, 4)} | how
        return tiny.sample(model, **({"latent": self.latent()} | how))

    def spied(self, model: ModelPatcher, monkeypatch: pytest.MonkeyPatch, **how: Any) -> list[Seen]:
        """Every joint or self-attention call of a sampling, seen from outside, in order."""
        spy = Spy(core.attention_pytorch)
        with monkeypatch.context() as patch:
            patch.setattr(f"{self.module}.optimized_attention", spy)
            self.sample(model, **how)
        return [seen for seen in spy.seen if seen.q.shape[2] >= VIDEO and not seen.cross]


class Seen:
    """One attention call as it happened. q, k, v, out: [B, H, L, D]. chunks: 0 cond, 1 uncond."""

    def __init__(self, args: tuple[Any, ...], named: dict[str, Any], out: Tensor) -> None:
        values = dict(zip(("q", "k", "v", "heads", "mask"), args, strict=False)) | named
        self.heads, self.mask = values["heads"], values.get("mask")
        q, k, v = (values[name].detach().clone() for name in "qkv")
        split = bool(values.get("skip_reshape"))
        self.q, self.k, self.v = (x if split else self._split(x) for x in (q, k, v))
        self.out = self._split(out.detach().clone())
        self.chunks: list[int] = list(values["transformer_options"]["cond_or_uncond"])
        self.sigma = float(values["transformer_options"]["sigmas"][0])
        self.cross = self.q.shape[2] != self.k.shape[2]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def dense(seen: Seen, wish: Wish | None = None) -> Case:
    """The call as the formula has it."""
    return Case(seen.q, seen.k, seen.v, wish or no_wish(len(seen.q), HEADS), four_axes(seen.mask))


def four_axes(mask: Tensor | None) -> Tensor | None:
    if mask is None or mask.ndim == 4:
        return mask
    return mask[:, None] if mask.ndim == 3 else mask[None, None]


class Spy:
    """In the place of core's `optimized_attention`: calls a function of core, and notes it all."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function, self.seen = function, list[Seen]()

    def __call__(self, *args: Any, **named: Any) -> Tensor:
        out = self.function(*args, **named)
        if named.get("transformer_options"):  # else no call of a block
            self.seen.append(Seen(args, named, out))
        return out


def patcher(config: Any, seed: int) -> ModelPatcher:
    """The model of a configuration as core's loader makes it, with weights drawn from a seed."""
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device="cpu")
    torch.manual_seed(seed)
    for name, weight in model.diffusion_model.named_parameters():
        draw(name, weight)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, device, offload)


def draw(name: str, weight: nn.Parameter) -> None:
    """Attention far from uniform, and no block switched off."""
    modulation = any(part in name for part in (".mod", "_mod.", "norm1.linear", "norm2.linear"))
    if weight.ndim == 1:
        weight.data.fill_(1.0 if "norm" in name and "weight" in name else 0.0)
    elif "pos_frequencies" in name:
        weight.data.normal_()
    else:
        weight.data.normal_(std=(0.3 if modulation else 1.0) * weight[0].numel() ** -0.5)
    if any(part in name for part in ("query_norm", "norm_q.weight", "q_norm")):
        weight.data.mul_(1 + torch.rand_like(weight))


def tiny_mochi(seed: int = 0, patch: int = 2) -> ModelPatcher:
    config = comfy.supported_models.GenmoMochi(
        {
            "image_model": "mochi_preview",
            "depth": LAYERS,
            "patch_size": patch,
            "num_heads": HEADS,
            "hidden_size_x": 64,
            "hidden_size_y": 32,
            "mlp_ratio_x": 1536 * 8 / 64,
            "mlp_ratio_y": 4.0,
            "learn_sigma": False,
            "in_channels": 12,
            "qk_norm": True,
            "qkv_bias": False,
            "out_bias": True,
            "attn_drop": 0.0,
            "patch_embed_bias": True,
            "posenc_preserve_area": True,
            "timestep_mlp_bias": True,
            "attend_to_padding": False,
            "timestep_scale": 1000.0,
            "use_t5": True,
            "t5_feat_dim": TEXT_WIDTH,
            "t5_token_length": 256,
            "rope_theta": 10000.0,
        }
    )
    model = patcher(config, seed)
    for block in model.model.diffusion_model.blocks:  # its class insists on a width of 12,288
        block.mlp_x = FeedForward(64, 128, 8, None, operations=comfy.ops.disable_weight_init)
        for name, weight in block.mlp_x.named_parameters():
            draw(name, weight)
    return model


def tiny_hunyuan_video(seed: int = 0, **more: Any) -> ModelPatcher:
    config = comfy.supported_models.HunyuanVideo(
        {
            "image_model": "hunyuan_video",
            "in_channels": 16,
            "patch_size": [1, 2, 2],
            "out_channels": 16,
            "vec_in_dim": 20,
            "axes_dim": [4, 6, 6],
            "meanflow": False,
            "context_in_dim": TEXT_WIDTH,
            "hidden_size": 64,
            "mlp_ratio": 2.0,
            "num_heads": HEADS,
            "depth": 1,
            "depth_single_blocks": LAYERS - 1,
            "theta": 256,
            "qkv_bias": True,
            "byt5": False,
            "guidance_embed": True,
            "use_cond_type_embedding": False,
            "vision_in_dim": None,
            "meanflow_sum": False,
        }
        | more
    )
    return patcher(config, seed)


def tiny_cogvideox(seed: int = 0, **more: Any) -> ModelPatcher:
    if not hasattr(comfy.supported_models, "CogVideoX_T2V"):
        pytest.skip("this ComfyUI does not know CogVideoX; 0.24 or newer does")
    config = comfy.supported_models.CogVideoX_T2V(
        {
            "image_model": "cogvideox",
            "num_attention_heads": HEADS,
            "attention_head_dim": 16,
            "in_channels": 16,
            "out_channels": 16,
            "time_embed_dim": 32,
            "text_embed_dim": TEXT_WIDTH,
            "num_layers": LAYERS,
            "patch_size": 2,
            "max_text_seq_length": 6,
            "sample_height": 10,
            "sample_width": 14,
            "sample_frames": 9,
            "use_rotary_positional_embeddings": True,
        }
        | more
    )
    return patcher(config, seed)


def tiny_ltx_video(seed: int = 0, **more: Any) -> ModelPatcher:
    config = comfy.supported_models.LTXV(
        {
            "image_model": "ltxv",
            "in_channels": 16,
            "num_attention_heads": HEADS,
            "attention_head_dim": 16,
            "cross_attention_dim": 64,
            "caption_channels": TEXT_WIDTH,
            "num_layers": LAYERS,
        }
        | more
    )
    return patcher(config, seed)


WAN = Family("Wan", "comfy.ldm.wan.model", tiny.tiny_wan, 16, (1, 1, 1), False)
MOCHI = Family(
    "Mochi",
    "comfy.ldm.genmo.joint_model.asymm_models_joint",
    tiny_mochi,
    12,
    (1, 2, 2),
    False,
    masked=True,
    sites=numbered("blocks.{}.attn"),
)
HUNYUAN_VIDEO = Family(
    "HunyuanVideo",
    "comfy.ldm.flux.math",
    tiny_hunyuan_video,
    16,
    (1, 2, 2),
    True,
    pooled=20,
    sites=("double_blocks.0", "single_blocks.0", "single_blocks.1"),
)
COGVIDEOX = Family(
    "CogVideoX",
    "comfy.ldm.cogvideo.model",
    tiny_cogvideox,
    16,
    (1, 2, 2),
    True,
    sites=numbered("blocks.{}"),
)
LTX_VIDEO = Family(
    "LTX-Video",
    core.__name__,
    tiny_ltx_video,
    16,
    (1, 1, 1),
    False,
    masked=True,
    sites=numbered("transformer_blocks.{}.attn1"),
)
JOINT = (MOCHI, HUNYUAN_VIDEO, COGVIDEOX)
FAMILIES = (WAN, *JOINT, LTX_VIDEO)
