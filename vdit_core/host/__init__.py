"""The only rooms that know a host program (ComfyUI or diffusers)."""
