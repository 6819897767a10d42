"""Mend triton's interpreter, which runs the kernels without a GPU, for the installed numpy."""

# The interpreter has no settings: what must change is private. Triton is not on every platform.
# pyright: reportPrivateUsage=false, reportMissingImports=false

from __future__ import annotations

from triton.runtime import interpreter


def mend() -> None:
    """Let an array of one number be a number, as the interpreter's loop bounds are.

    numpy does that no more since 2.4, and triton 3.6 relies on it.
    """
    patch = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: object) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
