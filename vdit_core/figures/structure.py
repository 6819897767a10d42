"""The views of VDiT Structure: where attention goes in space, in time, and on the video itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..record import RecordData
from .frame_maps import draw_frame_maps
from .likeness import draw_likeness
from .on_video import draw_on_video
from .panels import Chosen
from .statistics import Statistics, draw_statistic
from .table import Cell, Table

DISTANCES = {"mass by frame distance": "frames", "mass by spatial distance": "tokens"}
VIEWS = ("by distance", "frame by frame", "looked at", "looks widely", "similarity")


def draw_structure(
    data: RecordData,
    view: str,
    chosen: Chosen,
    *,
    video: Tensor | None = None,
    other: RecordData | None = None,
) -> Statistics:
    """Draw one view of a record.

    video: [N, H, W, 3] of values 0..1, the decoded video to draw on, if there is one. other: the
    record to compare with. Raises ValueError for a view whose numbers were not captured.
    """
    if view not in VIEWS:
        raise ValueError(f"view: got {view!r}, allowed are {', '.join(VIEWS)}")
    if view == "similarity":
        if other is None:
            raise ValueError(
                "other: the view similarity compares two records; connect a second one, of "
                "another prompt or of another model with maps of the same size"
            )
        return draw_likeness(data, other, chosen)
    if view == "by distance":
        return _by_distance(data, chosen)
    if view == "frame by frame":
        return draw_frame_maps(data, chosen)
    return draw_on_video(data, view, chosen, video)


def _by_distance(data: RecordData, chosen: Chosen) -> Statistics:
    """Both curves, one below the other."""
    _, found = chosen.calls(data)
    part = replace(data, measurements=tuple(found))
    drawn = {
        unit: draw_statistic(
            part, statistic=name, step=chosen.step, branch=chosen.branch, item=chosen.item
        )
        for name, unit in DISTANCES.items()
    }
    rows: list[list[Cell]] = []
    for unit, one in drawn.items():
        rows += [[*row[:5], unit, *row[5:]] for row in one.table.rows]
    columns = ["video", "step", "branch", "layer", "head", "distance in", "distance"]
    image = torch.cat([one.image for one in drawn.values()], 1)
    report = "\n\n".join(one.report for one in drawn.values())
    return Statistics(image, report, Table([*columns, "share of the mass (%)"], rows))
