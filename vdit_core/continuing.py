"""One record of two samplings: Wan 2.2 has a model for high noise and another for low noise."""

from __future__ import annotations

from dataclasses import replace

from .merging import first_difference
from .program import Capture, Program
from .record import Header, RecordData, Turn


def joined(first: RecordData, second: RecordData) -> RecordData:
    """The record of a schedule whose parts were measured one after the other."""
    sigmas = (*first.header.sigmas[:-1], *second.header.sigmas)
    header, steps = replace(first.header, sigmas=sigmas), first.header.steps
    moved = [
        replace(m, step=m.step + steps, grid=None if grid == header.grid else grid)
        for m in second.measurements
        for grid in (second.header_of(m).grid,)
    ]
    cross = (replace(m, step=m.step + steps) for m in second.cross)
    return RecordData(header, (*first.measurements, *moved), (*first.cross, *cross))


def earlier_data(capture: Capture, program: Program, turn: Turn | None) -> RecordData | None:
    """What a capture is to go on with in this turn. Raises ValueError if it cannot be there."""
    earlier, name = capture.earlier, capture.asker.name
    if earlier is None:
        return None
    if any(isinstance(s, Capture) and s.record is earlier for s in program):
        raise ValueError(
            f"{name}: the record it goes on with comes from a capture on this very model, so this "
            "sampling would overwrite it; connect the model of each VDiT Capture to a model "
            "loader, not to the other VDiT Capture"
        )
    try:
        return earlier.entry(turn)
    except ValueError as error:
        raise ValueError(
            f"{name}: the record it goes on with holds nothing yet; connect the first sampler's "
            "LATENT to this sampler's latent_image, and give the first sampler the model from the "
            "first VDiT Capture"
        ) from error


def check_joins(name: str, first: Header, second: Header) -> None:
    """Raises ValueError unless a second sampling goes on where a first one ended."""
    if difference := first_difference(first, second):
        what, before, now = difference
        raise ValueError(
            f"{name}: {what} is {now}, but {before} in the record it goes on with; make both "
            "alike, or leave its input record open"
        )
    end, start = first.sigmas[-1], second.sigmas[0]
    if abs(end - start) > 1e-4 * start:
        raise ValueError(
            f"{name}: the record it goes on with ends at noise level {end:.4g}, this sampling "
            f"begins at {start:.4g}; turn on return_with_leftover_noise on the first sampler, set "
            "its end_at_step to this one's start_at_step, and give both the same steps, scheduler "
            "and shift (ModelSamplingSD3)"
        )
