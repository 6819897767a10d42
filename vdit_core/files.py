"""Safetensors files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write under another name first, so that no half of a file ever bears this one.

    Raises OSError, with how much room there is, where the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, partial, metadata=metadata)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        left = shutil.disk_usage(path.parent).free
        raise OSError(
            f"cannot write {path}: {error}; {left / 1e6:,.0f} MB are free there. Make room, or "
            "write less or elsewhere; nothing was left behind"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
