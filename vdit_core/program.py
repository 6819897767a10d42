"""What nodes ask for: frozen specs, in node order. They travel in the model's options."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .attention import PROBED
from .edits import Change
from .edits.footage import FollowFootage
from .edits.freeze import Freeze
from .edits.guide import Guide
from .edits.replay import Replay
from .edits.sparsity import Sparsify
from .edits.transfer import PairTransfer
from .plan import REGIONS
from .ranking import Ranked
from .record import Record
from .selection import HeadList, Selection
from .sites import BRANCHES, Layout, Site, in_runs
from .sources import DTYPES, Source

OF_ONE_STRENGTH = PairTransfer | Replay | Freeze
SOURCED = OF_ONE_STRENGTH | FollowFootage  # edits of the field `source`
TOGETHER = frozenset({"temperature", "gate", "text", "guidance"})  # fields of which several act
OF_TEXT = frozenset({"text", "words"})  # switches of a capture that ask for the prompt's tokens


@dataclass(frozen=True)
class Window:
    """A part of the schedule, as ComfyUI counts it: 0 is the first step, 1 the end."""

    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start_percent <= self.end_percent <= 1:
            raise ValueError(
                f"start_percent {self.start_percent} and end_percent {self.end_percent}: "
                "they must lie in 0 to 1, and the start must not come after the end"
            )


@dataclass(frozen=True)
class Asker:
    """The node that asked, for messages. id: its place in the running graph, if there is one."""

    name: str
    id: str | None = None


@dataclass(frozen=True)
class Edit:
    """One change for chosen heads, part of the schedule and one or both branches.

    ranked: which of the heads in `where`, told by the sampling itself; None for all of them.
    remark: what the node is to say of its choice.
    """

    asker: Asker
    change: Change
    where: HeadList
    window: Window = Window()
    branch: str = "both"
    ranked: Ranked | None = None
    remark: str = ""

    @property
    def neutral(self) -> bool:
        """Whether it changes nothing anywhere."""
        return self.change.neutral or (self.ranked is not None and self.ranked.share == 0)

    def __post_init__(self) -> None:
        check_branch(self.branch)
        if self.change.region not in REGIONS:
            allowed = ", ".join(REGIONS)
            raise ValueError(f"region: got {self.change.region!r}, allowed are {allowed}")
        if isinstance(self.change, Guide) and self.branch == "uncond":
            raise ValueError(
                "branch: guidance evaluates the model once more with the positive prompt alone, so "
                "branch 'uncond' would change nothing; choose both or cond"
            )


@dataclass(frozen=True)
class Capture:
    """Measure the maps of chosen heads at chosen steps into a record.

    more: which further statistics, names of MORE_KEPT and PROBED, or words. frames: which latent
    frames the maps show, a run of them. tau, rate: see Measures. earlier: a record of the sampling
    before, to go on with.
    """

    asker: Asker
    where: HeadList
    steps: Selection
    record: Record
    branch: str = "both"
    map_size: int = 64
    more: tuple[str, ...] = ()
    frames: Selection | None = None
    tau: float = 0.3
    rate: float = 0.5
    earlier: Record | None = None

    def __post_init__(self) -> None:
        check_branch(self.branch)


@dataclass(frozen=True)
class Keep:
    """Keep Q and K of chosen heads in a part of the schedule. dtype: of sources.DTYPES."""

    asker: Asker
    where: HeadList
    source: Source
    window: Window = Window()
    branch: str = "both"
    dtype: str = "bf16"

    def __post_init__(self) -> None:
        check_branch(self.branch)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: got {self.dtype!r}, allowed are {', '.join(DTYPES)}")


Spec = Edit | Capture | Keep
Program = tuple[Spec, ...]


def check_branch(branch: str) -> None:
    if branch not in BRANCHES:
        raise ValueError(f"branch: got {branch!r}, allowed are {', '.join(BRANCHES)}")


def chosen_heads(where: HeadList, layout: Layout) -> dict[Site, tuple[int, ...]]:
    """Sites and heads a spec names in this model. Raises ValueError for those that do not exist."""
    by_layer, sites = where.resolve(layout.heads), layout.numbered
    return {sites[layer]: heads for layer, heads in by_layer.items() if heads}


def acted_on(spec: Spec, layout: Layout) -> dict[Site, tuple[int, ...]]:
    """Sites and heads a spec acts on: those it names, and for a capture of text or words the
    cross-attention of the same layers."""
    chosen = chosen_heads(spec.where, layout)
    if isinstance(spec, Capture) and OF_TEXT & {*spec.more}:
        layers = {site.layer: heads for site, heads in chosen.items()}
        chosen |= {s: layers[s.layer] for s in layout.of_text() if s.layer in layers}
    return chosen


def conflicts(program: Program, new: Spec, layout: Layout) -> list[tuple[Asker, str]]:
    """Messages for the askers of two edits that set one field of the same heads."""
    if not isinstance(new, Edit) or new.neutral or new.change.field in TOGETHER:
        return []
    mine, messages = chosen_heads(new.where, layout), []
    for old in program:
        if not isinstance(old, Edit) or old.neutral or not _meet(old, new):
            continue
        if (old.change.field, old.change.region) != (new.change.field, new.change.region):
            continue
        theirs = chosen_heads(old.where, layout)
        shared = [s.layer for s, heads in mine.items() if set(heads) & set(theirs.get(s, ()))]
        if shared:
            layers = ", ".join(map(str, shared))
            field = new.change.field
            if old.ranked is not None or new.ranked is not None:
                layers += ", where the sampling chooses them for both"
            messages.append((old.asker, f"overruled in layers {layers}: a later node sets {field}"))
            messages.append((new.asker, f"overrules an earlier node's {field} in layers {layers}"))
    return messages


def check_together(program: Program, layout: Layout) -> None:
    """Raises ValueError for specs that this model, or the others, leave no room for."""
    for check in (
        check_text,
        check_thresholds,
        check_blocks,
        check_probes,
        check_regions,
        check_sources,
    ):
        check(program, layout)


def check_blocks(program: Program, layout: Layout) -> None:
    """Raises ValueError for blocks in a layer that mixes two maps, which have other blocks each."""
    edits = [s for s in program if isinstance(s, Edit)]
    for blocks in edits:
        if not isinstance(blocks.change, Sparsify) or blocks.change.mode != "block":
            continue
        for other in edits:
            if not _in_part(other.change):
                continue
            if shared := _shared_layers(blocks, other, layout):
                raise ValueError(
                    f"{blocks.asker.name}: block mode cannot be combined with a transfer in part "
                    f"({other.asker.name}, layers {shared}); "
                    "use strength 1, mode exact, or other layers"
                )


def check_sources(program: Program, layout: Layout) -> None:
    """Raises ValueError for two sources of maps in one layer: its rows follow one."""
    edits = [s for s in program if isinstance(s, Edit) and s.change.field == "source"]
    for index, old in enumerate(edits):
        for new in edits[index + 1 :]:
            a, b = (edit.change for edit in (old, new))
            assert isinstance(a, SOURCED) and isinstance(b, SOURCED)
            if a.origin != b.origin and (shared := _shared_layers(new, old, layout)):
                raise ValueError(
                    f"{new.asker.name}: layers {shared} already take their maps from elsewhere "
                    f"({old.asker.name}); choose other layers, or take one of the two out"
                )


def check_probes(program: Program, layout: Layout) -> None:
    """Raises ValueError for a capture that asks what sparsity would do where there is some."""
    edits = [s for s in program if isinstance(s, Edit)]
    for capture in (s for s in program if isinstance(s, Capture)):
        probed = " and ".join(name for name in capture.more if name in PROBED)
        for edit in edits if probed else ():
            if shared := _thinned_layers(edit, capture, layout):
                raise ValueError(
                    f"{capture.asker.name}: {probed} can be measured of whole maps only, but "
                    f"{edit.asker.name} drops weights in layers {shared}; capture a sampling "
                    "without it, or other layers"
                )


def _thinned_layers(edit: Edit, capture: Capture, layout: Layout) -> str:
    """The captured layers in which an edit drops weights, as text; empty where in none."""
    alike = edit.branch == capture.branch or "both" in (edit.branch, capture.branch)
    if not isinstance(edit.change, Sparsify) or not alike:
        return ""
    thinned = {s for s in chosen_heads(edit.where, layout) if edit.change.rates[s.layer] > 0}
    return in_runs(s.layer for s in chosen_heads(capture.where, layout) if s in thinned)


def check_text(program: Program, layout: Layout) -> None:
    """Raises ValueError for an edit of the text's tokens in layers that hold none."""
    for spec in program:
        if not isinstance(spec, Edit) or spec.change.field != "text":
            continue
        if any(site.kind != "joint" for site in chosen_heads(spec.where, layout)):
            raise ValueError(
                f"{spec.asker.name}: it needs a model in which video and text attend together, but "
                f"the self-attention of {layout.family} holds video only; remove the features "
                "instead, with VDiT First Text Token on the prompt"
            )


def check_thresholds(program: Program, layout: Layout) -> None:
    """Raises ValueError for two ways to drop weights in one layer: a call has one way."""
    edits = [s for s in program if isinstance(s, Edit) and isinstance(s.change, Sparsify)]
    for index, old in enumerate(edits):
        for new in edits[index + 1 :]:
            assert isinstance(old.change, Sparsify) and isinstance(new.change, Sparsify)
            alike = replace(old.change, rates=new.change.rates) == new.change
            shared = "" if alike else _shared_layers(new, old, layout)
            if shared:
                raise ValueError(
                    f"{new.asker.name}: layers {shared} already have another "
                    f"mode ({old.change.mode}) than this node's ({new.change.mode}), or other "
                    "settings of it; give both nodes the same, or other layers"
                )


def check_regions(program: Program, layout: Layout) -> None:
    """Raises ValueError for a region that a layer lacks, or an edit that cannot act beside it."""
    edits = [s for s in program if isinstance(s, Edit)]
    for inner in (edit for edit in edits if edit.change.region != "all"):
        name, region = inner.asker.name, inner.change.region
        if any(site.kind != "joint" for site in chosen_heads(inner.where, layout)):
            raise ValueError(
                f"{name}: region {region} needs a model in which video and text attend together, "
                f"but the self-attention of {layout.family} holds video only; choose region all"
            )
        for outer in (edit for edit in edits if edit.change.region == "all"):
            change = outer.change
            partial = _in_part(change)
            if not (partial or isinstance(change, Sparsify)):
                continue
            if shared := _shared_layers(inner, outer, layout):
                what = "a transfer in part" if partial else "sparsity"
                raise ValueError(
                    f"{name}: an edit in region {region} cannot be combined with {what} in region "
                    f"all ({outer.asker.name}, layers {shared}); give both nodes region {region}, "
                    "or other layers"
                )


def _in_part(change: Change) -> bool:
    """Whether a change mixes a source's map with the own one."""
    if isinstance(change, FollowFootage):
        return change.in_part
    return isinstance(change, OF_ONE_STRENGTH) and change.strength != 1


def _shared_layers(a: Edit, b: Edit, layout: Layout) -> str:
    """The layers in which both act on one branch at one time, as text; empty where in none."""
    theirs = chosen_heads(b.where, layout)
    shared = [site.layer for site in chosen_heads(a.where, layout) if site in theirs]
    return ", ".join(map(str, shared)) if _meet(a, b) else ""


def _meet(a: Edit, b: Edit) -> bool:
    """Whether two edits act on one branch at one time."""
    start = max(a.window.start_percent, b.window.start_percent)
    end = min(a.window.end_percent, b.window.end_percent)
    return start < end and (a.branch == b.branch or "both" in (a.branch, b.branch))
