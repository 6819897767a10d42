"""LPIPS against the published formula written apart in float64, with weights of the right form."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor
from vdit_attention.vdit_core.lpips import SMALLEST, Lpips

WIDTHS = (64, 192, 384, 256, 256)
TAPS = (1, 4, 7, 9, 11)  # the ReLUs in torchvision's `features`

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> torch.nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = torchvision.models.alexnet(weights=None).features
        return torch.nn.Sequential(*[*whole.children()][:12])  # without the last pooling


@pytest.fixture(scope="module")
def states(network: torch.nn.Sequential) -> tuple[State, State]:
    generator = torch.Generator().manual_seed(1)
    features = {f"features.{name}": value for name, value in network.state_dict().items()}
    features["classifier.1.weight"] = torch.zeros(2, 2)  # the file has these, too
    linear = {
        f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator)
        for n, width in enumerate(WIDTHS)
    }
    return features, linear


def clips(height: int = 40, width: int = 53) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.rand(2, 3, height, width, 3, generator=generator)
    return a, b


def published(network: torch.nn.Sequential, linear: State, a: Tensor, b: Tensor) -> float:
    """Σ over layers of the mean over places of w · (â − b̂)², of pictures [H, W, 3]."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().view(1, 3, 1, 1)
    x, y = (((2 * z.double().permute(2, 0, 1)[None] - 1) - shift) / scale for z in (a, b))
    total, twin = 0.0, copy.deepcopy(network).double()
    for index, module in enumerate(twin):
        x, y = module(x), module(y)
        if index in TAPS:
            weight = linear[f"lin{TAPS.index(index)}.model.1.weight"].double().flatten()
            unit = [z / (z.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y)]
            apart = (unit[0] - unit[1]).pow(2)  # [1, C, h, w]
            total += float(torch.einsum("c,bchw->bhw", weight, apart).mean())
    return total


@torch.inference_mode()
def test_it_is_the_published_distance(network, states) -> None:
    a, b = clips()
    found = Lpips(*states)(a, b)
    wanted = [published(network, states[1], x, y) for x, y in zip(a, b, strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4)
    assert min(wanted) > 0


@torch.inference_mode()
def test_equal_videos_have_none_and_order_does_not_matter(states) -> None:
    judge, (a, b) = Lpips(*states), clips()
    assert judge(a, a).tolist() == [0, 0, 0]
    assert judge(a, b).tolist() == pytest.approx(judge(b, a).tolist())


@torch.inference_mode()
def test_the_smallest_pictures_that_it_takes(states) -> None:
    judge = Lpips(*states)
    assert len(judge(*clips(SMALLEST, SMALLEST))) == 3
    with pytest.raises(ValueError, match=f"40 × {SMALLEST - 1} pixels.*enlarge both"):
        judge(*clips(SMALLEST - 1, 40))


def test_other_files_are_refused_by_name(states) -> None:
    features, linear = states
    with pytest.raises(ValueError, match=r"AlexNet weights should have 'features.0.weight'"):
        Lpips(linear, features)
    short = {**linear, "lin2.model.1.weight": torch.zeros(1, 256, 1, 1)}
    with pytest.raises(ValueError, match=r"LPIPS weights.*'lin2.*but has shape \(1, 256, 1, 1\)"):
        Lpips(features, short)
