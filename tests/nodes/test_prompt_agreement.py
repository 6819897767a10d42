"""How well videos agree with their prompt to CLIP: real classes, small and with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.clip_vision
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.clip_model import clip_preprocess
from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as nnf
from vdit_attention.nodes.study import VDiTCompareVideos
from vdit_attention.nodes.sweep import VDiTSweepReport
from vdit_attention.nodes.toy import VDiTToyWorld

transformers = pytest.importorskip("transformers", reason="ComfyUI itself needs it")

FRAMES, SIZE, WIDTH, OTHER = 9, 36, 24, 32
PROMPT = "a red fox jumps over a (small:1.3) brook"
READ = "a red fox jumps over a small brook"  # weights are no part of the pooled state
LAYERS = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
SEES = {
    **LAYERS,
    **{"hidden_size": 16, "image_size": 32, "patch_size": 8, "num_channels": 3},
    **{"hidden_act": "quick_gelu", "model_type": "clip_vision_model"},
}


def video(seed: int) -> Tensor:
    return torch.rand(FRAMES, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(seed))


def text_config(width: int, layers: int = 3) -> dict[str, Any]:
    found = LAYERS | {"hidden_size": width, "num_hidden_layers": layers, "vocab_size": 49408}
    return found | {"hidden_act": "quick_gelu", "eos_token_id": 49407}


def whole_clip(width: int, layers: int = 3) -> Any:
    """transformers' CLIP model; its text feature is as wide as its text encoder, as in ComfyUI."""
    config = transformers.CLIPConfig(
        text_config=text_config(width, layers), vision_config=SEES, projection_dim=width
    )
    torch.manual_seed(width)
    model = transformers.CLIPModel(config).eval()
    for value in model.parameters():
        value.data.normal_(std=0.2).copy_(value.data.half())  # ComfyUI may keep them so
    return model


@pytest.fixture(scope="module")
def reference() -> Any:
    return whole_clip(WIDTH)


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Tensor]], str]:
    """A file of weights, as its path."""
    folder, names = tmp_path_factory.mktemp("weights"), iter(range(99))

    def written(weights: dict[str, Tensor]) -> str:
        path = folder / f"{next(names)}.safetensors"
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
        return str(path)

    return written


def load(file: str) -> Any:
    return comfy.sd.load_clip([file], model_options={"model_config": text_config(WIDTH)})


def load_two(small: str, large: str) -> Any:
    """SDXL's pair of encoders; ComfyUI's loader has no way to give each a size of its own."""
    sizes = {"clip_l_model_config": text_config(WIDTH)}
    sizes["clip_g_model_config"] = text_config(OTHER, 31)
    target = SimpleNamespace(clip=SDXLClipModel, tokenizer=SDXLTokenizer, params={})
    weights = [load_file(small), load_file(large)]
    found = comfy.sd.CLIP(target, state_dict=weights, model_options=sizes)
    found.patcher.cached_patcher_init = (None, ([small, large],))
    return found


@pytest.fixture(scope="module")
def clip(reference: Any, write: Callable[..., str]) -> Any:
    return load(write(reference.state_dict()))


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Any]:
    """ComfyUI's vision model with the weights of transformers'."""

    def made(model: Any) -> Any:
        path = tmp_path_factory.mktemp("vision") / "config.json"
        width = model.config.projection_dim
        path.write_text(json.dumps(SEES | {"projection_dim": width}), "utf-8")
        found = comfy.clip_vision.ClipVisionModel(str(path))
        assert not found.load_sd(model.state_dict())[0]
        return found

    return made


@pytest.fixture(scope="module")
def clip_vision(vision: Callable[[Any], Any], reference: Any) -> Any:
    return vision(reference)


@pytest.fixture(autouse=True)
def previews(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))


A, B = video(0), 0.4 * video(1)


def compare(**more: Any) -> tuple[Any, ...]:
    node: Any = VDiTCompareVideos.PREPARE_CLASS_CLONE(None)
    return node.execute(a=A, b=B, **more).result


def agreement(result: tuple[Any, ...]) -> list[list[float]]:
    """By frame, of a and of b, from the csv."""
    lines = [line.split(",") for line in result[4].splitlines()]
    columns = [lines[0].index(f"prompt agreement of {x}") for x in "ab"]
    return [[float(line[column]) for line in lines[1:]] for column in columns]


def tokens(text: str, clip: Any) -> Tensor:
    ids = clip.tokenizer.clip_l.tokenizer(text)["input_ids"]
    return torch.tensor([ids + [49407] * (77 - len(ids))])


def cosines(images: list[Tensor], text: Tensor) -> list[list[float]]:
    return [nnf.cosine_similarity(x.double(), text.double()).tolist() for x in images]


@torch.inference_mode()
def test_it_is_the_cosine_of_what_the_raw_modules_give(clip: Any, clip_vision: Any) -> None:
    result = compare(clip_vision=clip_vision, clip=clip, prompt=PROMPT)
    ids, model = tokens(READ, clip), clip.cond_stage_model.clip_l.transformer
    states = model.text_model(ids)[0][0]
    text = states[ids[0].tolist().index(49407)] @ model.text_projection.weight.float().T
    sees = clip_vision.model
    images = [
        sees.vision_model(clip_preprocess(x, size=32))[2] @ sees.visual_projection.weight.float().T
        for x in (A, B)
    ]
    wanted = cosines(images, text)
    for found, values in zip(agreement(result), wanted, strict=True):
        assert found == pytest.approx(values, abs=1e-5)
    means = [sum(values) / FRAMES for values in wanted]
    assert result[-1] == pytest.approx(means[1] - means[0], abs=1e-5) and abs(result[-1]) > 1e-3
    line = next(x for x in result[1].splitlines() if x.startswith("prompt agreement "))
    told = [float(x) for x in line.split()[2:]]
    assert told == pytest.approx([*means, means[1] - means[0]], abs=1e-4)


@torch.inference_mode()
def test_transformers_finds_the_same(reference: Any, clip: Any, clip_vision: Any) -> None:
    found = agreement(compare(clip_vision=clip_vision, clip=clip, prompt=PROMPT))
    for x, values in zip((A, B), found, strict=True):
        out = reference(input_ids=tokens(READ, clip), pixel_values=clip_preprocess(x, size=32))
        wanted = (out.logits_per_image[:, 0] / reference.logit_scale.exp()).tolist()
        assert values == pytest.approx(wanted, abs=1e-5)


@torch.inference_mode()
def test_of_two_encoders_the_one_as_wide_as_the_images_reads(
    reference: Any, vision: Callable[[Any], Any], write: Callable[..., str]
) -> None:
    other = whole_clip(OTHER, 31)
    files = [write(model.state_dict()) for model in (reference, other)]
    both = load_two(*files)
    for model in (reference, other):
        found = agreement(compare(clip_vision=vision(model), clip=both, prompt=PROMPT))
        ids = tokens(READ, both)
        out = model(input_ids=ids, pixel_values=clip_preprocess(B, size=32))
        wanted = (out.logits_per_image[:, 0] / model.logit_scale.exp()).tolist()
        assert found[1] == pytest.approx(wanted, abs=1e-5)


@torch.inference_mode()
def test_it_changes_nothing_for_who_encodes_next(clip: Any, clip_vision: Any) -> None:
    def pooled() -> Tensor:
        return clip.encode_from_tokens(clip.tokenize(READ), return_pooled=True)[1]

    before = pooled()
    compare(clip_vision=clip_vision, clip=clip, prompt=PROMPT)
    assert not clip.cond_stage_model.clip_l.return_projected_pooled
    assert torch.equal(pooled(), before)


@torch.inference_mode()
def test_a_prompt_longer_than_clip_reads_is_told(clip: Any, clip_vision: Any) -> None:
    long = compare(clip_vision=clip_vision, clip=clip, prompt="a fox " * 60)
    assert "only its first 75 tokens count" in long[1]
    cut = compare(clip_vision=clip_vision, clip=clip, prompt="a fox " * 37 + "a")
    assert agreement(long) == agreement(cut) and "only its first" not in cut[1]


@torch.inference_mode()
def test_a_sweep_can_rank_by_it(clip: Any, clip_vision: Any) -> None:
    def report(**more: Any) -> tuple[Any, ...]:
        node: Any = VDiTSweepReport.PREPARE_CLASS_CLONE(None)
        asked: dict[str, Any] = {"labels": ["none", "layer 0", "layer 1"], "spare": [1]}
        asked |= {"measure": ["prompt agreement"], "value": [1.0], "spared_value": [0.0]}
        videos = [video(0), 0.98 * video(0), 1 - video(0)]
        return node.execute(videos=videos, **asked, **more).result

    with pytest.raises(ValueError, match="connect clip_vision and clip, and write prompt"):
        report(clip_vision=[clip_vision])
    result = report(clip_vision=[clip_vision], clip=[clip], prompt=[PROMPT])
    lines = [line.split(",") for line in result[3].splitlines()]
    at = lines[0].index("prompt agreement")
    baseline, *others = [float(line[at]) for line in lines[1:]]
    changes = [abs(value - baseline) for value in others]
    assert [float(line[3]) for line in lines[2:]] == pytest.approx(changes)
    assert changes[0] < changes[1] and [line[2] for line in lines[1:]] == ["", "2", "1"]
    assert "prompt agreement: cosine" in result[2]


def test_without_a_prompt_nothing_is_added() -> None:
    result = compare(prompt=" \n")
    assert "agreement" not in result[1] + result[4] and result[-1] == 0


class Unread:
    """A vision model that says how wide it is and must not be asked for more."""

    model_type = "clip_vision_model"

    def __init__(self, width: int | None, llava: Any = None) -> None:
        projection = None if width is None else torch.nn.Linear(16, width, bias=False)
        self.model = SimpleNamespace(visual_projection=projection, multi_modal_projector=llava)


def refused(**more: Any) -> str:
    with pytest.raises(ValueError) as found:
        compare(**{"prompt": PROMPT} | more)
    return str(found.value)


def test_one_without_the_others_is_refused(clip: Any) -> None:
    assert "clip: prompt is given, but clip is not connected" in refused()
    assert "clip_vision: clip and prompt are given" in refused(clip=clip)
    assert "prompt: clip is connected, but prompt is empty" in refused(
        clip=clip, clip_vision=Unread(WIDTH), prompt=" "
    )


def test_encoders_of_two_models_are_refused(clip: Any) -> None:
    said = refused(clip=clip, clip_vision=Unread(OTHER))
    assert f"clip_l has {WIDTH}" in said and f"clip_vision has {OTHER}" in said


def test_encoders_without_a_common_space_are_refused(clip: Any) -> None:
    for other in (Unread(None), Unread(WIDTH, llava=object())):
        assert "no image features that lie where texts do" in refused(clip=clip, clip_vision=other)
    toy_world: Any = VDiTToyWorld
    toy = toy_world.execute(variant="wan").result[1]
    assert "holds no text encoder of CLIP" in refused(clip=toy, clip_vision=Unread(WIDTH))


def test_a_projection_that_is_missing_or_none_is_refused(
    reference: Any, write: Callable[..., str]
) -> None:
    weights = dict(reference.state_dict())
    projection = weights.pop("text_projection.weight")
    odd = {"cond_stage_model.transformer.text_projection.weight": projection}
    for lacking in (weights, weights | odd, weights | {"text_projection.weight": projection[:5]}):
        held = {k: v for k, v in lacking.items() if v.shape != (5, WIDTH)}
        model, file = load(write(held)), write(lacking)
        model.patcher.cached_patcher_init = (None, ([file],))
        said = refused(clip=model, clip_vision=Unread(WIDTH))
        assert f"its file holds no text_projection of {WIDTH} × {WIDTH}" in said
    for value in (torch.eye(WIDTH), torch.zeros(WIDTH, WIDTH), projection * torch.nan):
        model = load(write(weights | {"text_projection.weight": value}))
        said = refused(clip=model, clip_vision=Unread(WIDTH))
        assert "is zero, the identity or not finite" in said


def test_a_projection_of_unknown_origin_is_refused(clip: Any) -> None:
    model = clip.clone()
    model.patcher.cached_patcher_init = None
    assert "cannot be told" in refused(clip=model, clip_vision=Unread(WIDTH))
