"""Numbers that stand in a workflow's pictures and texts, read from what it has saved."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

from ..vdit_core.record import Measurement, RecordData, load_record
from .checks import Check

RECORD = "toy_record_00001_.safetensors"  # of toy_attention_maps, in the output folder vdit
COMPARISON = re.compile(r"^(PSNR|SSIM) \(([^)]*)\)\s+([\d.]+)", re.MULTILINE)


def compared(workflow: str, title: str, text: str) -> list[Check]:
    """PSNR and SSIM in the report of VDiT Compare Videos; nothing in other texts."""
    videos = f"{workflow}, " + title.removesuffix(", in numbers")
    units = {"PSNR": "dB", "SSIM": "1 = alike"}
    return [
        Check(f"{videos}: {name}", float(value), units[name], group="comparison")
        for name, _, value in COMPARISON.findall(text)
    ]


def entropies(content: bytes) -> list[Check]:
    """Row entropy of every layer and head in a record, as a share of the highest there can be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RECORD
        path.write_bytes(content)
        record = load_record(path)
    conds = [m for m in record.measurements if m.branch == "cond"]
    return [check for m in conds for check in _layer(record, m)]


def _layer(record: RecordData, measurement: Measurement) -> list[Check]:
    shares = measurement.measures.entropy / math.log(len(record.header_of(measurement).grid))
    columns = {f"head {h}": s.item() for h, s in zip(measurement.heads, shares, strict=True)}
    columns["mean"] = shares.mean().item()
    return [
        Check(f"layer {measurement.layer}: {column}", value, "share", group="entropy")
        for column, value in columns.items()
    ]
