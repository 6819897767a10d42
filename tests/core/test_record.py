"""Records: saved whole or not at all, read back equal, refused in words."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from vdit_attention.vdit_core import files
from vdit_attention.vdit_core.attention import MapMeasures
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.record import (
    VERSION,
    Header,
    Measurement,
    Record,
    RecordData,
    load_record,
    save_record,
)
from vdit_attention.vdit_core.sites import Excerpt


def measures(heads: int) -> MapMeasures:
    first = [torch.rand(heads, *shape) for shape in ((3, 3), (3,), (), (), ())]
    return MapMeasures(*first, column_sums=torch.rand(heads, 108), coverage_key=torch.arange(heads))


def measurement(layer: int, step: int, branch: str, item: int = 0) -> Measurement:
    name = f"blocks.{layer}.self_attn"
    return Measurement(name, layer, step, 0, 0.9 / 3, branch, item, (0, 2), measures(2))


def example() -> RecordData:
    header = Header("Wan", 6, 4, TokenGrid(3, 5, 7, 2, 1), 64, (1.0, 0.7, 0.1 + 0.2, 0.0))
    found = [measurement(2, 1, "cond"), measurement(2, 1, "uncond"), measurement(5, 1, "cond", 1)]
    return RecordData(header, tuple(found))


def labels(data: RecordData) -> list[dict[str, object]]:
    return [{k: v for k, v in vars(m).items() if k != "measures"} for m in data.measurements]


def test_what_was_saved_comes_back_equal(tmp_path: Path) -> None:
    part = replace(measurement(3, 1, "cond"), prompt=1, excerpt=Excerpt((2, 3, 0), 4))
    data = replace(example(), measurements=(*example().measurements, part))
    path = tmp_path / "new" / "folder" / "a.safetensors"
    save_record(data, path)
    back = load_record(path)
    assert back.header == data.header
    assert labels(back) == labels(data)
    for old, new in zip(data.measurements, back.measurements, strict=True):
        for name, tensor in vars(old.measures).items():
            again = getattr(new.measures, name)
            assert again is None if tensor is None else torch.equal(again, tensor), name
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_a_record_of_version_1_is_read(tmp_path: Path) -> None:
    """It had neither window, tau, rate and prompt nor the measures after lse_max."""
    data, path = example(), tmp_path / "a.safetensors"
    save_record(data, path)
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["vdit_record"])
        later = ("column_sums", "coverage_key")
        names = [n for n in file.keys() if not n.endswith(later)]
        tensors = {name: file.get_tensor(name) for name in names}
    content["version"] = 1
    for name in ("window", "tau", "rate"):
        del content["header"][name]
    for label in content["measurements"]:
        del label["prompt"]
    save_file(tensors, path, metadata={"vdit_record": json.dumps(content)})
    back = load_record(path)
    assert back.header == data.header
    assert labels(back) == labels(data)
    assert back.measurements[0].measures.column_sums is None


def test_an_empty_record_comes_back_empty(tmp_path: Path) -> None:
    data = replace(example(), measurements=())
    save_record(data, tmp_path / "a.safetensors")
    assert load_record(tmp_path / "a.safetensors") == data


@pytest.mark.parametrize("failing", ["save_file", "os.replace"])
def test_a_failing_save_leaves_no_file(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors_or_path: object, path: Path, **_: object) -> None:
        if failing == "save_file":
            path.write_bytes(b"half")
        raise OSError("disk full")

    target = files.os if failing == "os.replace" else files
    monkeypatch.setattr(target, failing.removeprefix("os."), fail)
    with pytest.raises(OSError, match="disk full"):
        save_record(example(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_save_leaves_the_older_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    save_record(example(), path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_record(example(), path)
    assert path.read_bytes() == before


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"^record: model\.safetensors is not a record saved by"):
        load_record(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"{" * 64, bytes(64)])
def test_a_file_that_is_no_safetensors_is_refused_in_the_same_words(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^record: notes\.safetensors is not a record saved by"):
        load_record(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    text = json.dumps({"version": VERSION + 1})
    save_file({"x": torch.zeros(1)}, path, metadata={"vdit_record": text})
    with pytest.raises(ValueError) as error:
        load_record(path)
    assert str(error.value) == (
        f"record: a.safetensors has format {VERSION + 1}, this pack reads up to {VERSION}; "
        "update the pack"
    )


def test_find_gives_the_call_that_was_asked_for() -> None:
    data = example()
    assert data.find(layer=2, step=1, branch="uncond") is data.measurements[1]
    assert data.find(layer=5, step=1, branch="cond", item=1) is data.measurements[2]


def test_find_says_what_was_captured_instead() -> None:
    with pytest.raises(ValueError) as error:
        example().find(layer=3, step=1, branch="cond")
    assert str(error.value) == (
        "record: no map of layer 3, step 1, branch cond, video 0; captured were layers 2, 5, "
        "steps 1, branches cond, uncond, videos 0, 1; choose one of these, or widen the choice "
        "on VDiT Capture and sample again"
    )


def test_a_record_without_data_says_how_to_get_some() -> None:
    record = Record(example())
    record.begin()
    with pytest.raises(ValueError, match=r"nothing has been captured yet; connect the sampler's"):
        _ = record.data


def test_a_copied_record_is_still_the_same_mailbox() -> None:
    record = Record()
    copied = copy.deepcopy({"program": (record,)})["program"][0]
    copied.seal(data := example())
    assert record.data is data
