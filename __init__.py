"""VDiT Attention: look into, and steer, the attention of video diffusion transformers."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's door to the nodes; imported here, so that importing the pack needs no ComfyUI."""
    from .nodes import VDiTAttentionExtension

    return VDiTAttentionExtension()
