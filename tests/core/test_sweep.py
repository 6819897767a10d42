"""A sweep of a program: which edits act where in each entry, and what is refused."""

from __future__ import annotations

import pytest
from torch import nn
from vdit_attention.vdit_core.edits import Change
from vdit_attention.vdit_core.edits.gate import Skip
from vdit_attention.vdit_core.edits.perturb import Perturb
from vdit_attention.vdit_core.edits.sparsity import Sparsify
from vdit_attention.vdit_core.edits.temperature import Temperature
from vdit_attention.vdit_core.edits.text import HideText
from vdit_attention.vdit_core.edits.transfer import PairTransfer
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.program import Asker, Capture, Edit, Program, chosen_heads
from vdit_attention.vdit_core.record import Record
from vdit_attention.vdit_core.selection import parse_heads, parse_selection, parse_where
from vdit_attention.vdit_core.sites import Layout, Site
from vdit_attention.vdit_core.sweep import Entry, acting_layers, layer_of, sweep

LAYERS, HEADS = 4, 3
SITES = [Site(f"blocks.{n}.attn", n, "joint", HEADS) for n in range(LAYERS)]
LAYOUT = Layout("Mochi", {nn.Identity(): (site,) for site in SITES}, lambda *_: TokenGrid(1, 2, 3))
ONE, ALL_BUT = "one layer at a time", "all but one"


def edit(change: Change, layers: str = "all", heads: str = "all") -> Edit:
    return Edit(Asker("VDiT Edit"), change, parse_where(layers, heads))


def swept(
    program: Program, layers: str = "all", operation: str = ONE, baseline: bool = True
) -> list[Entry]:
    return sweep(program, parse_selection(layers, "layers"), operation, baseline, LAYOUT)


def acting(entry: Entry) -> list[dict[int, tuple[int, ...]]]:
    """Heads by layer of each edit."""
    edits = [spec for spec in entry.program if isinstance(spec, Edit)]
    found = [chosen_heads(spec.where, LAYOUT) for spec in edits]
    return [{site.layer: heads for site, heads in each.items()} for each in found]


def test_one_layer_at_a_time() -> None:
    entries = swept((edit(Skip(), heads="0,2"),), "3,1")
    assert [entry.label for entry in entries] == ["none", "layer 1", "layer 3"]
    assert [acting(entry) for entry in entries] == [[{}], [{1: (0, 2)}], [{3: (0, 2)}]]


def test_all_but_one() -> None:
    entries = swept((edit(Skip(), "0-2"),), "0,2", ALL_BUT, baseline=False)
    assert [entry.label for entry in entries] == ["all but layer 0", "all but layer 2"]
    assert [[*acting(entry)[0]] for entry in entries] == [[1, 2], [0, 1]]


def test_heads_that_were_listed_layer_by_layer_keep_to_the_list() -> None:
    skip = Edit(Asker("S"), Skip(), parse_heads("1:*; 2:0,1; -1:2"))
    found = [acting(entry)[0] for entry in swept((skip,), "1-3", baseline=False)]
    assert found == [{1: (0, 1, 2)}, {2: (0, 1)}, {3: (2,)}]


def test_several_edits_go_together_and_captures_stay_as_they_are() -> None:
    record = Record()
    capture = Capture(Asker("C"), parse_where("2", "all"), parse_selection("mid", "steps"), record)
    program = edit(Skip(), "0-1"), capture, edit(Temperature(2.0), "1-3")
    none, first, second = swept(program, "0-1")
    assert acting(none) == [{}, {}]
    assert acting(first) == [{0: (0, 1, 2)}, {}]
    assert acting(second) == [{1: (0, 1, 2)}] * 2
    assert all(entry.program[1] is capture for entry in (none, first, second))


def test_a_sweep_of_a_sweep_holds_both() -> None:
    first = swept((edit(Skip()),), "1-2", ALL_BUT, baseline=False)[0]
    again = sweep(first.program, parse_selection("2", "layers"), ALL_BUT, False, LAYOUT)
    assert [*acting(again[0])[0]] == [0, 3]


ACTING = {
    "everywhere": (Skip(), {0, 1, 2, 3}),
    "text": (HideText(2), {0, 1, 2, 3}),
    "the video alone": (Perturb("uniform", 0.5, "video→video"), {0, 1, 2, 3}),
    "transfer": (PairTransfer(0.5), {0, 1, 2, 3}),
    "where a schedule says so": (Sparsify((0.0, 0.5, 0.0, 0.2)), {1, 3}),
    "the same, in the video": (Sparsify((0.0, 0.5, 0.0, 0.2), region="video→video"), {1, 3}),
    "nowhere": (Temperature(1.0), set[int]()),
    "at strength 0": (Perturb("identity", 0.0), set[int]()),
}


@pytest.mark.parametrize("name", ACTING)
def test_where_an_edit_acts(name: str) -> None:
    change, layers = ACTING[name]
    assert acting_layers(edit(change), LAYOUT) == layers


@pytest.mark.parametrize("operation", [ONE, ALL_BUT])
def test_what_would_show_nothing_is_refused(operation: str) -> None:
    def refused(message: str, program: Program, layers: str = "all") -> None:
        with pytest.raises(ValueError, match=message):
            swept(program, layers, operation)

    skip = edit(Skip(), "1-2")
    refused("model: it has no edit to sweep", ())
    refused("layers: 'none' names no layer", (skip,), "none")
    refused("'4' names layer 4, but this model has layers 0 to 3", (skip,), "4")
    refused("VDiT Edit changes nothing in layers 0, 3, only in 1, 2;", (skip,))
    refused("VDiT Edit changes nothing in layer 3, only in 1, 2;", (skip,), "1-3")
    refused("only in no layer; .* check its numbers", (edit(Temperature(1.0)),))
    refused("nothing in layer 0, only in 3", (edit(Sparsify((0.0, 0.0, 0.0, 0.9))),), "0,3")


def test_an_operation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'twice', allowed are one layer at a time, all but one"):
        swept((edit(Skip()),), operation="twice")


def test_labels_name_their_layer() -> None:
    entries = [*swept((edit(Skip()),)), *swept((edit(Skip()),), operation=ALL_BUT)]
    assert [layer_of(e.label) for e in entries] == [None, 0, 1, 2, 3] * 2
    with pytest.raises(ValueError, match="'T = 2' names no layer; connect the labels of VDiT La"):
        layer_of("T = 2")
