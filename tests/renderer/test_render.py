"""Rendering in windows: equal to rendering whole, any length, a function of (seed, track) only."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from duotok.clock import LATENT_SAMPLES
from duotok.config import parse
from duotok.errors import ConfigError
from duotok.renderer.dit import DiT, DiTConfig
from duotok.renderer.render import (
    RenderPlan,
    RenderSettings,
    decode_blocks,
    frame_noise,
    latent_blocks,
    latents,
    render_track,
    stream_track,
    windows,
)
from duotok.renderer.samplers import SAMPLERS, sample

CONFIG = DiTConfig(
    latent_dim=6,
    condition_dim=4,
    condition_width=8,
    condition_kernel=3,
    width=16,
    heads=2,
    blocks=1,
    ffn_ratio=2.0,
    conv_kernel=3,
    time_dim=16,
    attention_window=3,
)
STEPS = 3
WHOLE = RenderPlan(window=4096, context=0, crossfade=0)


class ConvDecoder(nn.Module):
    """A double of the autoencoder: two convolutions over latent frames, then `hop` samples of each, two channels."""

    receptive_field = 4

    def __init__(self, hop: int = LATENT_SAMPLES) -> None:
        super().__init__()
        self.hop = hop
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Conv1d(6, 8, 5, padding=2), nn.Tanh(), nn.Conv1d(8, 6, 5, padding=2))
        self.out = nn.Linear(6, 2 * hop)
        self.longest = 0

    def decode(self, latents: Tensor) -> Tensor:
        self.longest = max(self.longest, latents.shape[1])
        x = self.out(self.net(latents.transpose(1, 2)).transpose(1, 2))
        return x.reshape(len(x), -1, 2, self.hop).transpose(1, 2).reshape(len(x), 2, -1)


def build(per_frame: int = 2) -> DiT:
    torch.manual_seed(0)
    dit = DiT(CONFIG.model_copy(update={"latents_per_frame": per_frame}))
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return dit.eval()


def exact_plan(dit: DiT, hop: int = 12, crossfade: int = 4) -> RenderPlan:
    """Context for all steps together: each of them sees as far again."""
    assert dit.receptive_field is not None
    context = STEPS * dit.receptive_field
    context += context % 2
    return RenderPlan(window=hop + 2 * context + crossfade, context=context, crossfade=crossfade, decode_block=7)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("crossfade", "per_frame"), [(0, 2), (4, 2), (4, 1)])
def test_windows_equal_the_whole(sampler: str, crossfade: int, per_frame: int) -> None:
    dit, condition = build(per_frame), torch.randn(120 // per_frame, 4)
    plan = exact_plan(dit, crossfade=crossfade)
    whole = latents(dit, condition, RenderSettings(STEPS, sampler, plan=WHOLE))
    pieces = latents(dit, condition, RenderSettings(STEPS, sampler, plan=plan))
    assert whole.shape == (120, 6) and len(list(windows(120, plan))) > 5
    torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=1e-4)


def test_too_little_context_is_seen_by_the_test_above() -> None:
    dit, condition = build(), torch.randn(60, 4)
    whole = latents(dit, condition, RenderSettings(STEPS, "ddim", plan=WHOLE))
    short = latents(dit, condition, RenderSettings(STEPS, "ddim", plan=RenderPlan(window=14, context=2, crossfade=0)))
    assert not torch.allclose(short, whole, atol=1e-3)


@pytest.mark.parametrize("total", [2, 4, 10, 16, 18, 20, 40, 62, 100])
def test_windows_cover_everything_once(total: int) -> None:
    plan = RenderPlan(window=24, context=4, crossfade=4)
    found = list(windows(total, plan))
    assert found[0].keep_start == 0 and found[-1].keep_stop == total
    for before, after in pairwise(found):
        assert after.keep_start == before.keep_stop - plan.crossfade
    for w in found:
        assert 0 <= w.start <= w.keep_start < w.keep_stop <= w.stop <= total
        assert w.stop - w.start <= plan.window and w.start % 2 == 0
        assert w.start == 0 or w.keep_start - w.start >= plan.context
        assert w.stop == total or w.stop - w.keep_stop == plan.context
    if total >= plan.window:
        assert found[-1].stop - found[-1].start == plan.window


@pytest.mark.parametrize("frames", [1, 2, 3, 9, 10, 17, 33])
@pytest.mark.parametrize("short_by", [0, 1, 959, 961, 1919])
@pytest.mark.parametrize("per_frame", [1, 2])
def test_every_length_comes_out_exactly(frames: int, short_by: int, per_frame: int) -> None:
    dit, condition = build(per_frame), torch.randn(frames, 4)
    n_samples = 1920 * frames - short_by
    plan = RenderPlan(window=24, context=4, crossfade=4, decode_block=5)
    sound = render_track(dit, ConvDecoder(1920 // per_frame), condition, n_samples, RenderSettings(1, plan=plan))
    assert sound.shape == (2, n_samples)
    assert sound.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("block", [1, 3, 7, 50])
def test_decoding_in_blocks_equals_decoding_whole(block: int) -> None:
    decoder, whole = ConvDecoder(), torch.randn(40, 6)
    pieces = [whole[:1], whole[1:20], whole[20:20], whole[20:]]
    sound = torch.cat(list(decode_blocks(decoder, pieces, block)), dim=1)
    torch.testing.assert_close(sound, decoder.decode(whole[None])[0], atol=1e-5, rtol=1e-5)


def test_a_stream_is_the_same_sound_in_bounded_pieces() -> None:
    dit, decoder, condition = build(), ConvDecoder(), torch.randn(100, 4)
    plan = RenderPlan(window=24, context=4, crossfade=4, decode_block=10)
    n_samples = 1920 * 100 - 77
    blocks = list(stream_track(dit, decoder, condition, n_samples, RenderSettings(2, plan=plan)))
    assert max(block.shape[1] for block in blocks) <= 10 * LATENT_SAMPLES
    assert decoder.longest <= 10 + 2 * decoder.receptive_field
    assert torch.equal(
        torch.cat(blocks, dim=1), render_track(dit, decoder, condition, n_samples, RenderSettings(2, plan=plan))
    )


def test_blocks_arrive_before_the_end() -> None:
    dit, condition = build(), torch.randn(500, 4)
    seen: list[int] = []
    plan = RenderPlan(window=24, context=4, crossfade=4)
    stream = latent_blocks(dit, condition, RenderSettings(1, plan=plan), progress=lambda done, total: seen.append(done))
    first = next(stream)
    assert len(first) == plan.hop and seen == [plan.hop]


def test_progress_ends_at_the_total() -> None:
    dit, calls = build(), []
    plan = RenderPlan(window=24, context=4, crossfade=4)
    render_track(
        dit,
        ConvDecoder(),
        torch.randn(50, 4),
        96_000,
        RenderSettings(1, plan=plan),
        progress=lambda *c: calls.append(c),
    )
    done = [d for d, _ in calls]
    assert done == sorted(done) and calls[-1] == (100, 100)


def test_noise_is_a_function_of_seed_track_frame_and_step() -> None:
    long = frame_noise(3, "vocals", 0, 2100, 5)
    assert torch.equal(frame_noise(3, "vocals", 1000, 1030, 5), long[1000:1030])
    assert torch.equal(frame_noise(3, "vocals", 2050, 2060, 5), long[2050:2060])
    assert frame_noise(3, "vocals", 7, 7, 5).shape == (0, 5)
    for other in (
        frame_noise(4, "vocals", 0, 9, 5),
        frame_noise(3, "accompaniment", 0, 9, 5),
        frame_noise(3, "vocals", 0, 9, 5, 1),
    ):
        assert not torch.equal(other, long[:9])
    assert abs(float(long.std()) - 1) < 0.03 and abs(float(long.mean())) < 0.03


def test_seed_and_track_decide_the_sound() -> None:
    dit, decoder, condition = build(), ConvDecoder(), torch.randn(10, 4)

    def run(seed: int, track: str) -> Tensor:
        return render_track(dit, decoder, condition, 19_200, RenderSettings(2, "dpmpp-3m-sde", seed), track=track)

    assert torch.equal(run(1, "vocals"), run(1, "vocals"))
    assert not torch.equal(run(1, "vocals"), run(2, "vocals"))
    assert not torch.equal(run(1, "vocals"), run(1, "accompaniment"))


def test_nothing_gives_nothing() -> None:
    assert render_track(build(), ConvDecoder(), torch.zeros(0, 4), 0, RenderSettings(2)).shape == (1, 0)


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="5000 samples cannot be rendered from 2 frames"):
        render_track(build(), ConvDecoder(), torch.zeros(2, 4), 5000, RenderSettings(2))
    with pytest.raises(ConfigError, match="must be even"):
        parse(RenderPlan, {"context": 3})
    with pytest.raises(ConfigError, match="leaves no room"):
        parse(RenderPlan, {"window": 128, "context": 64})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_temperature_is_finite(value: float) -> None:
    with pytest.raises(ConfigError, match=f"^temperature {value} must be a finite number"):
        RenderSettings(temperature=value)
    with pytest.raises(ConfigError, match=f"^temperature {value} must be a finite number"):
        RenderSettings().changed(temperature=value)
    with pytest.raises(ConfigError, match=f"^temperature {value}: must be a finite number"):
        sample(build(), torch.zeros(1, 4, 64), torch.zeros(1, 2, 4), 1, temperature=value)


def test_neighbouring_windows_fade_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first window says 0, the next one 1: over the crossfade stands a straight line between them."""
    from duotok.renderer import render

    said = iter(range(100))

    def constant(dit: object, condition: object, window: render.RenderWindow, *_: object) -> torch.Tensor:
        return torch.full((window.keep_stop - window.keep_start, 64), float(next(said)))

    monkeypatch.setattr(render, "window_latents", constant)
    plan = render.RenderPlan(window=32, context=4, crossfade=8)
    dit = DiT(DiTConfig(width=16, heads=2, blocks=1, condition_width=8, time_dim=8))
    found = render.latents(dit, torch.zeros(20, 16), RenderSettings(plan=plan))[:, 0]
    first = next(iter(render.windows(40, plan)))
    start = first.keep_stop - 8
    assert not found[:start].any()
    torch.testing.assert_close(found[start : start + 8], (torch.arange(8) + 0.5) / 8)
    assert float(found[start + 8]) == 1.0
