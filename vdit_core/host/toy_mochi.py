"""Load the toy Mochi. ComfyUI's own loader knows no Mochi but the one of the real size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.utils
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .toy_networks import mochi_network

CONFIG = "toy_mochi"  # in the file's metadata: MOCHI_CONFIG and the width of the video MLPs
MLP_WIDTH = "mlp_width"

Weights = dict[str, Tensor]


def load_toy_mochi(path: Path, disable_dynamic: bool = False) -> ModelPatcher:
    """The MODEL from a file that carries its configuration.

    disable_dynamic: as in ComfyUI's loaders, which call this again for a copy on another device.
    """
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    metadata = metadata or {}
    if CONFIG not in metadata:
        raise ValueError(f"{path.name}: no toy Mochi; its metadata lacks '{CONFIG}'")
    patcher = mochi_patcher(weights, json.loads(metadata[CONFIG]), disable_dynamic)
    patcher.cached_patcher_init = (load_toy_mochi, (path,))
    return patcher


def mochi_patcher(
    weights: Weights, config: dict[str, Any], disable_dynamic: bool = False
) -> ModelPatcher:
    """What `comfy.sd.load_diffusion_model_state_dict` does, with the model's kind given."""
    load_device = management.get_torch_device()
    kind = ToyMochi(config)
    supported = kind.supported_inference_dtypes
    dtype = management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    kind.set_inference_dtype(dtype, management.unet_manual_cast(dtype, load_device, supported))
    model = kind.get_model(weights)
    offload_device = management.unet_offload_device()
    core_class = comfy.model_patcher.CoreModelPatcher
    patcher_class = ModelPatcher if disable_dynamic else core_class
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    model.to(offload_device)
    model.load_model_weights(weights, "", assign=patcher.is_dynamic())
    return patcher


class ToyMochi(comfy.supported_models.GenmoMochi):
    """Mochi in the latent space of the toy VAE: ComfyUI's model class around the small network."""

    latent_format = comfy.latent_formats.Wan21

    def get_model(
        self, state_dict: Weights, prefix: str = "", device: Any = None
    ) -> comfy.model_base.GenmoMochi:
        settings: dict[str, Any] = self.unet_config
        config = settings.copy()
        width, dtype = config.pop(MLP_WIDTH), config.pop("dtype")
        operations = comfy.ops.pick_operations(dtype, self.manual_cast_dtype, model_config=self)
        network = mochi_network(config, width, operations, dtype=dtype, device=device)
        settings["disable_unet_model_creation"] = True
        model = comfy.model_base.GenmoMochi(self, device=device)
        model.diffusion_model = network.requires_grad_(False).eval()
        management.archive_model_dtypes(network)
        return model
