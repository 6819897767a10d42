"""VDiT Attention: look into, and steer, the attention of video diffusion transformers."""

import importlib
import logging

WEB_DIRECTORY = "./web"
OLDEST_COMFYUI = "0.16.3"  # that the tests pass with


async def comfy_entrypoint():
    """ComfyUI's door to the nodes; imported here, so that importing the pack needs no ComfyUI."""
    try:
        from .nodes import VDiTAttentionExtension

        extension = VDiTAttentionExtension()
        for node in await extension.get_node_list():
            node.GET_SCHEMA()  # an older interface shows here what it lacks
    except Exception as error:
        logging.exception("VDiT Attention did not load")  # ComfyUI itself logs the message alone
        raise RuntimeError(
            f"VDiT Attention needs ComfyUI {OLDEST_COMFYUI} or newer, and did not load in this one "
            f"({_comfyui_version()}): {error}"
        ) from error
    return extension


def _comfyui_version() -> str:
    try:
        return importlib.import_module("comfyui_version").__version__
    except ImportError:
        return "of unknown version"
