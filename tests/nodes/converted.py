"""The same weights in ComfyUI's class and in diffusers' class, and the same inputs for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoTransformer3DModel,
    MochiTransformer3DModel,
    WanTransformer3DModel,
)
from diffusers.loaders.single_file_utils import (
    convert_hunyuan_video_transformer_to_diffusers,
    convert_mochi_transformer_checkpoint_to_diffusers,
    convert_wan_transformer_to_diffusers,
)
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from vdit_attention.vdit_core.grid import in_patches

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Twins:
    """One model twice. told: arguments of ComfyUI's forward → arguments of diffusers' forward.

    heard: the output of diffusers' forward as ComfyUI's gives it. scheduler: with these sigmas.
    """

    model: ModelPatcher
    transformer: Any
    told: Callable[[Inputs], Inputs]
    scheduler: Callable[[list[float]], Any]
    heard: Callable[[Tensor], Tensor] = lambda out: out


def wan(model: ModelPatcher) -> Twins:
    network: Any = model.model.diffusion_model
    heads = network.num_heads
    twin = WanTransformer3DModel(
        patch_size=tuple(network.patch_size),
        num_attention_heads=heads,
        attention_head_dim=network.dim // heads,
        in_channels=network.in_dim,
        out_channels=network.out_dim,
        text_dim=network.text_dim,
        freq_dim=network.freq_dim,
        ffn_dim=network.ffn_dim,
        num_layers=network.num_layers,
        eps=network.eps,
    )
    _load(twin, convert_wan_transformer_to_diffusers(dict(network.state_dict())))

    def told(given: Inputs) -> Inputs:
        return {
            "hidden_states": given["x"],
            "timestep": given["timestep"],
            "encoder_hidden_states": given["context"],
        }

    return Twins(model, twin, told, _flow)


def mochi(model: ModelPatcher) -> Twins:
    network: Any = model.model.diffusion_model
    twin = MochiTransformer3DModel(
        patch_size=network.patch_size,
        num_attention_heads=network.num_heads,
        attention_head_dim=network.head_dim,
        num_layers=len(network.blocks),
        pooled_projection_dim=network.hidden_size_y,
        in_channels=network.in_channels,
        text_embed_dim=network.t5_feat_dim,
    )
    for mine, theirs in zip(network.blocks, twin.transformer_blocks, strict=True):
        theirs.ff = _feed_forward(mine.mlp_x)  # the width of the real model's follows from others
        theirs.ff_context = _feed_forward(mine.mlp_y) if mine.update_y else None
    _load(twin, _mochi_weights(network.state_dict(), len(network.blocks)))

    def told(given: Inputs) -> Inputs:
        return {
            "hidden_states": given["x"],
            "timestep": 1000 * (1 - given["timestep"]),
            "encoder_hidden_states": given["context"],
            "encoder_attention_mask": given["attention_mask"],
        }

    return Twins(model, twin, told, partial(_flow, invert_sigmas=True), torch.neg)


def hunyuan_video(model: ModelPatcher) -> Twins:
    network: Any = model.model.diffusion_model
    params = network.params
    twin = HunyuanVideoTransformer3DModel(
        in_channels=params.in_channels,
        out_channels=params.out_channels,
        num_attention_heads=params.num_heads,
        attention_head_dim=params.hidden_size // params.num_heads,
        num_layers=params.depth,
        num_single_layers=params.depth_single_blocks,
        mlp_ratio=params.mlp_ratio,
        text_embed_dim=params.context_in_dim,
        pooled_projection_dim=params.vec_in_dim,
        rope_axes_dim=tuple(params.axes_dim),
        rope_theta=params.theta,
    )
    original = _hunyuan_video_weights(network.state_dict(), params.hidden_size)
    _load(twin, convert_hunyuan_video_transformer_to_diffusers(original))

    def told(given: Inputs) -> Inputs:
        return {
            "hidden_states": given["x"],
            "timestep": given["timestep"],
            "encoder_hidden_states": given["context"],
            "encoder_attention_mask": torch.ones(given["context"].shape[:2]),
            "pooled_projections": given["y"],
            "guidance": 1000 * given["guidance"],
        }

    return Twins(model, twin, told, _flow)


def _hunyuan_video_weights(weights: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The names of the original release, which core's loader changed; single blocks' Q, K, V as
    diffusers has them, as it knows one width only."""
    original: dict[str, Tensor] = {}
    for name, x in weights.items():
        for core, release in HUNYUAN_VIDEO_NAMES:
            name = name.replace(core, release)
        if ".linear1." in name:
            name = name.replace("single_blocks", "single_transformer_blocks")
            parts = x.split((width, width, width, len(x) - 3 * width))
            places = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
            for place, part in zip(places, parts, strict=True):
                original[name.replace("linear1", place)] = part
        else:
            original[name] = x
    return original


HUNYUAN_VIDEO_NAMES = (
    ("mlp.0.", "mlp.fc1."),
    ("mlp.2.", "mlp.fc2."),
    ("txt_in.t_embedder.in_layer.", "txt_in.t_embedder.mlp.0."),
    ("txt_in.t_embedder.out_layer.", "txt_in.t_embedder.mlp.2."),
    ("txt_in.c_embedder.in_layer.", "txt_in.c_embedder.linear_1."),
    ("txt_in.c_embedder.out_layer.", "txt_in.c_embedder.linear_2."),
    ("time_in.in_layer.", "time_in.mlp.0."),
    ("time_in.out_layer.", "time_in.mlp.2."),
    ("guidance_in.in_layer.", "guidance_in.mlp.0."),
    ("guidance_in.out_layer.", "guidance_in.mlp.2."),
    ("_attn.qkv.", "_attn_qkv."),
    ("_attn.proj.", "_attn_proj."),
    ("_attn.norm.query_norm.", "_attn_q_norm."),
    ("_attn.norm.key_norm.", "_attn_k_norm."),
    (".norm.query_norm.", ".q_norm."),
    (".norm.key_norm.", ".k_norm."),
    (".lin.", ".linear."),
)


def cogvideox(model: ModelPatcher) -> Twins:
    network: Any = model.model.diffusion_model
    embed, linear = network.patch_embed, network.time_embedding_linear_1
    twin = CogVideoXTransformer3DModel(
        num_attention_heads=network.num_attention_heads,
        attention_head_dim=network.attention_head_dim,
        in_channels=network.in_channels,
        out_channels=network.out_channels,
        time_embed_dim=linear.out_features,
        text_embed_dim=embed.text_proj.in_features,
        num_layers=len(network.blocks),
        patch_size=network.patch_size,
        patch_size_t=network.patch_size_t,
        max_text_seq_length=network.max_text_seq_length,
        sample_height=embed.sample_height,
        sample_width=embed.sample_width,
        use_rotary_positional_embeddings=True,
    )
    weights: dict[str, Tensor] = {}
    for name, x in network.state_dict().items():
        for core, release in COGVIDEOX_NAMES:
            name = name.replace(core, release)
        weights[name] = x
    _load(twin, weights)

    def told(given: Inputs) -> Inputs:
        frames, rows, cols = in_patches(given["x"].shape, (1, 2, 2))
        return {
            "hidden_states": given["x"].transpose(1, 2),
            "timestep": given["timestep"],
            "encoder_hidden_states": given["context"],
            "image_rotary_emb": network._get_rotary_emb(rows, cols, frames, "cpu"),
        }

    def scheduler(sigmas: list[float]) -> Any:
        made = CogVideoXDDIMScheduler()
        made.timesteps = model.model.model_sampling.timestep(torch.tensor(sigmas))
        return made

    return Twins(model, twin, told, scheduler, lambda out: out.transpose(1, 2))


COGVIDEOX_NAMES = (
    ("blocks.", "transformer_blocks."),
    ("time_embedding_linear_", "time_embedding.linear_"),
    (".q.", ".attn1.to_q."),
    (".k.", ".attn1.to_k."),
    (".v.", ".attn1.to_v."),
    (".norm_q.", ".attn1.norm_q."),
    (".norm_k.", ".attn1.norm_k."),
    (".attn_out.", ".attn1.to_out.0."),
    (".ff_proj.", ".ff.net.0.proj."),
    (".ff_out.", ".ff.net.2."),
)


def _feed_forward(mine: Any) -> FeedForward:
    width = mine.w2.in_features
    return FeedForward(mine.w1.in_features, inner_dim=width, activation_fn="swiglu", bias=False)


def _mochi_weights(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """diffusers converts 48 layers, the last of another kind; ours are first and last ones."""
    places = [*range(layers - 1), 47]
    full = {name: x for name, x in weights.items() if not name.startswith("blocks.")}
    for place in range(48):
        layer = layers - 1 if place == 47 else min(place, layers - 2)
        for name, x in weights.items():
            if name.startswith(f"blocks.{layer}."):
                full[name.replace(f"blocks.{layer}.", f"blocks.{place}.", 1)] = x
    converted: dict[str, Tensor] = {}
    for name, x in convert_mochi_transformer_checkpoint_to_diffusers(full).items():
        kind, _, rest = name.partition(".")
        if kind != "transformer_blocks":
            converted[name] = x
        elif (place := int(rest.split(".")[0])) in places:
            converted[f"{kind}.{places.index(place)}.{rest.partition('.')[2]}"] = x
    return converted


def _flow(sigmas: list[float], **settings: Any) -> Any:
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(sigmas=sigmas)
    return scheduler


def _load(twin: nn.Module, weights: dict[str, Tensor]) -> None:
    """Every weight has its place, and every place its weight."""
    twin.load_state_dict(weights, strict=True)
    twin.eval().requires_grad_(False)
