"""Where footage may change: masks on a latent and on tokens, and blended outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vdit_attention.vdit_core.attention import attend
from vdit_attention.vdit_core.edits.footage import FollowFootage
from vdit_attention.vdit_core.footage import Footage, on_tokens, read_mask
from vdit_attention.vdit_core.grid import TokenGrid
from vdit_attention.vdit_core.plan import UNTOUCHED, AttentionPlan, Blend, MapMix, Source
from vdit_attention.vdit_core.sites import Call, Site

LATENT = (2, 16, 3, 5, 7)
IMPLEMENTATIONS = ("auto", "dense", "streaming", "reference")


def drawn(frames: int, high: int, wide: int, place: tuple[slice, slice, slice]) -> Tensor:
    mask = torch.zeros(frames, high, wide)
    mask[place] = 1
    return mask


@pytest.mark.parametrize(("each", "frames"), [(4, 9), (6, 13), (8, 17), (4, 12)])
def test_a_latent_frame_takes_the_share_of_its_own_video_frames(each: int, frames: int) -> None:
    last = 2 * each  # the last frame of the last latent frame; what comes after is dropped
    for frame in range(frames):
        mask = drawn(frames, 10, 14, (slice(frame, frame + 1), slice(2, 4), slice(6, 8)))
        share = torch.zeros(3, 5, 7)
        if frame == 0:
            share[0, 1, 3] = 1
        elif frame <= last:
            share[1 + (frame - 1) // each, 1, 3] = 1 / each
        found = read_mask(mask, LATENT, each)
        assert found is not None
        torch.testing.assert_close(found, share)


def test_a_rectangle_covers_each_place_by_its_area() -> None:
    mask = drawn(9, 35, 49, (slice(0, 9), slice(10, 24), slice(3, 30)))  # 7 × 7 pixels each
    found = read_mask(mask, LATENT, 4)
    rows = torch.tensor([0, 4, 7, 3, 0]) / 7  # of rows 10 … 23
    cols = torch.tensor([4, 7, 7, 7, 2, 0, 0]) / 7  # of columns 3 … 29
    assert found is not None
    torch.testing.assert_close(found, (rows[:, None] * cols).expand(3, -1, -1))


def test_one_mask_serves_all_frames_and_a_full_one_is_none() -> None:
    single = drawn(1, 10, 14, (slice(0, 1), slice(0, 4), slice(0, 2)))
    found, every = (read_mask(m, LATENT, 4) for m in (single, single.expand(9, -1, -1)))
    assert found is not None and every is not None
    torch.testing.assert_close(found, every)
    assert read_mask(torch.ones(9, 10, 14), LATENT, 4) is None
    assert read_mask(torch.ones(1, 10, 14), LATENT, 4) is None


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.ones(8, 10, 14), "it has 8 frames, but the video has 9; give one mask"),
        (torch.ones(13, 10, 14), "it has 13 frames, but the video has 9"),
        (torch.ones(3, 10, 14), "it has 3 frames, but the video has 9"),
        (torch.ones(10, 14), r"it has shape \(10, 14\), but the video has 9"),
        (torch.zeros(9, 10, 14), "nothing is drawn in it, so nothing may change"),
        (torch.full((9, 10, 14), 1.5), "values outside of 0 to 1"),
        (torch.full((9, 10, 14), torch.nan), "values outside of 0 to 1"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_mask(mask, LATENT, 4)


@pytest.mark.parametrize("patch", [1, 2])
def test_tokens_take_the_share_of_their_patch(patch: int) -> None:
    own = torch.rand(3, 11, 13, generator=torch.Generator().manual_seed(0))
    grid = TokenGrid(3, -(-11 // patch), -(-13 // patch), prefix=2, suffix=5)
    shares = on_tokens(own, grid)
    assert shares.shape == (len(grid),)
    for token in range(len(grid)):
        expected = 1.0  # text is the target's own
        if grid.video.start <= token < grid.video.stop:
            f, r, c = (int(x) for x in grid.unravel(torch.tensor(token)))
            cut = own[f, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            expected = float(cut.mean())
        assert float(shares[token]) == pytest.approx(expected)


def case() -> tuple[Tensor, Tensor, Tensor, AttentionPlan]:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(4, 3, 67, 16, generator=generator) for _ in range(3))
    target = torch.tensor([[0], [1], [0], [1]])
    plan = AttentionPlan(
        source=Source(torch.tensor([0, 0, 2, 2]), target * torch.tensor([1.0, 0.4, 0.0])),
        temperature=torch.full((4, 3), 0.8),
        map=MapMix(torch.full((4, 3), 0.25), torch.zeros(4, 3)),
        gate=torch.tensor([[1.0, 0.5, 1.0]]).expand(4, -1),
    )
    heads = target.bool() & torch.tensor([True, True, False])
    own = torch.rand(67, generator=generator).where(torch.arange(67) % 5 > 1, 0.0)
    own[::7] = 1
    return q, k, v, plan.blended(Blend(torch.tensor([0, 0, 2, 2]), heads, own))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_blend_mixes_outputs_token_by_token(implementation: str) -> None:
    q, k, v, plan = case()
    assert plan.blend is not None
    found = attend(q, k, v, plan, implementation=implementation)
    q, k, v = q.double(), k.double(), v.double()

    def output(row: int, head: int, of: int) -> Tensor:
        """0.25 · V beside 0.75 of a map, with temperature and gate. of: whose map."""
        maps = (q[of, head] @ k[of, head].T / 4 / 0.8).softmax(-1)
        return (0.5 if head == 1 else 1.0) * (0.75 * maps @ v[row, head] + 0.25 * v[row, head])

    for row in range(4):
        for head in range(3):
            source, share = row // 2 * 2, (1.0, 0.4, 0.0)[head] if row % 2 else 0.0
            expected = share * output(row, head, source) + (1 - share) * output(row, head, row)
            if row % 2 and head < 2:
                m = plan.blend.own.double()[:, None]
                expected = m * expected + (1 - m) * output(source, head, source)
            torch.testing.assert_close(found[row, head].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_shares_of_one_and_zero_have_the_bits_of_a_row(implementation: str) -> None:
    q, k, v, plan = case()
    assert plan.blend is not None
    plain = attend(q, k, v, replace(plan, blend=None), implementation=implementation)
    for share in (0.0, 1.0):
        blend = replace(plan.blend, own=torch.full((67,), share))
        found = attend(q, k, v, replace(plan, blend=blend), implementation=implementation)
        wanted = plain.clone()
        if share == 0:
            wanted[1::2, :2] = plain[0::2, :2]
        assert torch.equal(found, wanted)


def test_a_blend_that_was_not_placed_is_refused() -> None:
    q, k, v, plan = case()
    assert plan.blend is not None
    for own, words in (
        (torch.ones(3, 5, 7), "for each of 67 queries"),
        (2 * plan.blend.own, "0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            attend(q, k, v, replace(plan, blend=replace(plan.blend, own=own)))


def test_what_following_footage_does_to_a_plan() -> None:
    layer = [
        Call(Site(f"b.{n}", n, "self", 4), 0, 0, 1.0, ("cond",) * 4, (0, 1, 2, 3)) for n in (0, 1)
    ]
    chosen = torch.tensor([False, True, False, True])[:, None].expand(-1, 4)
    own, latent = torch.rand(*LATENT[-3:]), torch.rand(LATENT)
    followed = FollowFootage(Footage(latent), (0.5, 0.0))
    assert followed.apply(UNTOUCHED, layer[1], chosen).empty
    plan = followed.apply(UNTOUCHED, layer[0], chosen)
    assert plan.blend is None and plan.source is not None
    assert plan.source.rows.tolist() == [0, 0, 2, 2]
    assert torch.equal(plan.source.strength, torch.where(chosen, 0.5, 0.0))
    masked = FollowFootage(Footage(latent, own), (0.5, 0.0)).apply(UNTOUCHED, layer[1], chosen)
    assert masked.source is None and masked.blend is not None and not masked.idle
    assert masked.blend.own is own and torch.equal(masked.blend.heads, chosen)


def test_what_is_neutral() -> None:
    latent, own = torch.rand(LATENT), torch.rand(*LATENT[-3:])
    assert FollowFootage(Footage(latent), (0.0, 0.0)).neutral
    assert not FollowFootage(Footage(latent), (0.0, 0.1)).neutral
    assert not FollowFootage(Footage(latent, own), (0.0, 0.0)).neutral  # the mask alone
    with pytest.raises(ValueError, match=r"strength: got 1.5, allowed is 0 to 1"):
        FollowFootage(Footage(latent), (1.5,))
