"""Does a record come from the sampling that made this latent?"""

from __future__ import annotations

from torch import Tensor

from ..pairs import Latent
from ..record import Record, RecordData


def data_of(record: Record, latent: Latent | None) -> RecordData:
    """What a record holds, checked against the latent of its sampling if that is given too."""
    if latent is not None:
        check_origin(record.data, latent["samples"])
    return record.data


def check_origin(data: RecordData, samples: Tensor) -> None:
    """samples: a latent [B, C, F, H, W]. Raises ValueError if its size contradicts the record's.

    A token covers patch × patch latent places, with a patch that the record does not know; the
    model pads what is left over. Frames after the video may be guides, the sequence's suffix.
    """
    grid = data.header.grid
    excerpt = data.measurements[0].excerpt if data.measurements else None
    whole = excerpt.of if excerpt else grid.frames
    if samples.ndim == 5:
        frames, height, width = samples.shape[2:]
        sizes = [(-(-height // patch), -(-width // patch)) for patch in range(1, 9)]
        guides = (frames - whole) * grid.rows * grid.cols
        if guides in (0, grid.suffix) and (grid.rows, grid.cols) in sizes:
            return
        size = f"{frames} frames of {height} × {width}"
    else:
        size = f"no video latent, its shape is {tuple(samples.shape)}"
    raise ValueError(
        "a record from another model or size: it was captured on "
        f"{whole} frames of {grid.rows} × {grid.cols} tokens ({data.header.model}), the "
        f"latent is {size}; connect the latent of the sampler that ran the captured model, or "
        "leave latent open for a record from VDiT Load Record"
    )
