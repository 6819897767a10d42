"""Programs that run the pack in a real ComfyUI and measure it."""
