"""Demucs through our interface: a tiny random HTDemucs in a folder of weights as the package publishes them."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from duotok import convert
from duotok.errors import ConfigError, MissingExtraError
from duotok.separation.demucs import DemucsSeparator, load_network
from duotok.separation.separator import Separator

demucs = pytest.importorskip("demucs", reason="the extra 'demucs' is not installed")

SOURCES = ["drums", "bass", "other", "vocals"]
SEGMENT = Fraction(1, 5)
CHUNK = 8820


def arguments() -> dict[str, Any]:
    return {"channels": 8, "nfft": 4096, "t_layers": 1, "t_heads": 2, "segment": SEGMENT}


def network() -> Any:
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(3)
    return HTDemucs(SOURCES, **arguments()).eval()


def metadata(**changes: str) -> dict[str, str]:
    fraction = {"_type": "fraction", "numerator": SEGMENT.numerator, "denominator": SEGMENT.denominator}
    values = {
        "klass": "demucs.htdemucs.HTDemucs",
        "args": json.dumps([SOURCES]),
        "kwargs": json.dumps(arguments() | {"segment": fraction}),
    }
    return values | changes


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_file(
        {k: v.contiguous() for k, v in network().state_dict().items()}, folder / "0a1b2c3d.safetensors", metadata()
    )
    (folder / "htdemucs.yaml").write_text("models: ['0a1b2c3d']\n")
    return folder


@pytest.fixture(scope="module")
def separator(repo: Path) -> DemucsSeparator:
    return DemucsSeparator(repo=repo)


def sound(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def test_it_loads_the_network_of_the_folder(repo: Path) -> None:
    loaded = load_network("htdemucs", repo)
    assert loaded.sources == SOURCES and int(loaded.models[0].segment * 44_100) == CHUNK
    expected = network().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.models[0].state_dict().items())


@pytest.mark.parametrize("samples", [1, 4801, 48_000])
def test_lengths_and_sum(separator: DemucsSeparator, samples: int) -> None:
    mix = sound(samples)
    assert isinstance(separator, Separator) and separator.sample_rate == 48_000
    assert (separator.rate, separator.chunk, separator.overlap) == (44_100, CHUNK, CHUNK // 4)
    stems = separator.separate(mix)
    assert tuple(stems) == ("vocals", "accompaniment")
    assert all(stem.shape == mix.shape for stem in stems.values())
    torch.testing.assert_close(stems["vocals"] + stems["accompaniment"], mix, atol=1e-6, rtol=0)


def test_two_runs_and_streaming_agree_bit_for_bit(repo: Path, separator: DemucsSeparator) -> None:
    """Although the package shifts at random, and whatever the blocks."""
    mix = sound(31_001)
    whole = separator.separate(mix)
    random.seed(99)
    again = DemucsSeparator(repo=repo).separate(mix)
    pieces = list(separator.stream(mix.split(7000, dim=-1)))
    for stem, audio in whole.items():
        assert torch.equal(again[stem], audio)
        assert torch.equal(torch.cat([piece[stem] for piece in pieces], dim=-1), audio)


def test_as_the_package_separates(repo: Path) -> None:
    """At 44.1 kHz and without shifts, away from the song's end, where the package looks back instead of padding."""
    from demucs.apply import apply_model

    ours = DemucsSeparator(repo=repo, stems=("vocals", "drums"), shifts=0)
    ours._outside = ours.rate
    mix = sound(5 * CHUNK)
    theirs = apply_model(network(), mix[None], shifts=0, overlap=0.25)[0]
    inside = slice(0, 4 * CHUNK)
    for stem, audio in ours.separate(mix).items():
        expected = theirs[SOURCES.index(stem)]
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(audio[:, inside], expected[:, inside], atol=1e-6, rtol=1e-4)


def test_shifts_are_the_mean_of_displaced_runs(repo: Path) -> None:
    both = DemucsSeparator(repo=repo, shifts=2)
    assert len(set(both._shifts)) == 2 and max(both._shifts) <= 22_050
    mix, singles = sound(20_000), []
    for shift in both._shifts:
        one = DemucsSeparator(repo=repo, shifts=1)
        one._shifts = (shift,)
        singles.append(one.separate(mix)["vocals"])
    torch.testing.assert_close(both.separate(mix)["vocals"], (singles[0] + singles[1]) / 2, atol=1e-6, rtol=0)
    assert not torch.equal(singles[0], singles[1])


def test_a_displaced_run_hears_the_displaced_song(repo: Path) -> None:
    separator = DemucsSeparator(repo=repo, shifts=1)
    separator._outside = separator.rate
    shift = separator._shifts[0]
    plain = DemucsSeparator(repo=repo, shifts=0)
    plain._outside = plain.rate
    mix = sound(20_000)
    later = plain.separate(torch.cat((torch.zeros(2, shift), mix), dim=-1))["vocals"][:, shift:]
    torch.testing.assert_close(separator.separate(mix)["vocals"], later, atol=1e-7, rtol=0)


def test_silence_stays_silence_and_mono_is_taken(separator: DemucsSeparator) -> None:
    assert all(stem.abs().max() < 1e-6 for stem in separator.separate(torch.zeros(2, 9000)).values())
    assert separator.separate(torch.zeros(1, 0))["vocals"].shape == (2, 0)
    assert separator.separate(sound(9000)[:1])["vocals"].shape == (2, 9000)


def test_a_bag_is_weighed_by_its_recipe(repo: Path, tmp_path: Path) -> None:
    state = load_file(repo / "0a1b2c3d.safetensors")
    save_file(state, tmp_path / "one.safetensors", metadata())
    save_file({k: v * 0.5 for k, v in state.items()}, tmp_path / "two.safetensors", metadata())
    (tmp_path / "bag.yaml").write_text("models: [one, two]\nweights: [[1, 1, 1, 0], [0, 0, 0, 1]]\n")
    (tmp_path / "two.yaml").write_text("models: [two]\n")
    mix = sound(9000)
    bag, two = (DemucsSeparator(name, tmp_path).separate(mix)["vocals"] for name in ("bag", "two"))
    torch.testing.assert_close(bag, two, atol=1e-7, rtol=0)


def test_the_old_packages_are_converted(repo: Path, tmp_path: Path) -> None:
    """A .th as the package wrote them (class, arguments, half-precision weights) is refused, and read once converted."""
    from demucs.htdemucs import HTDemucs

    state = {name: value.half() for name, value in network().state_dict().items()}
    package = {"klass": HTDemucs, "args": (SOURCES,), "kwargs": arguments(), "state": state, "training_args": {"lr": 1}}
    torch.save(package, tmp_path / "0a1b2c3d-8726e21a.th")
    (tmp_path / "htdemucs.yaml").write_text("models: ['0a1b2c3d']\n")
    with pytest.raises(ConfigError, match=r"0a1b2c3d-8726e21a.th: is a pickle.*duotok.convert"):
        load_network("htdemucs", tmp_path)
    out = tmp_path / "0a1b2c3d.safetensors"
    assert convert.main([str(tmp_path / "0a1b2c3d-8726e21a.th"), str(out)]) == 0
    loaded = load_network("htdemucs", tmp_path).models[0]
    assert loaded.segment == SEGMENT
    assert all(torch.equal(value.half(), state[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"klass": "os.system", "args": '["true"]', "kwargs": "{}"}, "names no Demucs network"),
        ({"structure": "{}"}, "quantized"),
        ({"kwargs": "{"}, "damaged"),
        ({"kwargs": json.dumps({"channels": 8})}, "damaged"),
    ],
)
def test_foreign_and_damaged_weights(repo: Path, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    save_file(load_file(repo / "0a1b2c3d.safetensors"), tmp_path / "x.safetensors", metadata(**changes))
    (tmp_path / "htdemucs.yaml").write_text("models: [x]\n")
    with pytest.raises(ConfigError, match=rf"x\.safetensors: .*{message}"):
        load_network("htdemucs", tmp_path)


def test_missing_things(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"htdemucs_ft\.yaml: no such model; the folder has htdemucs"):
        load_network("htdemucs_ft", repo)
    with pytest.raises(ConfigError, match="no such folder"):
        load_network("htdemucs", tmp_path / "nothing")
    (tmp_path / "htdemucs.yaml").write_text("models: [gone]\n")
    with pytest.raises(ConfigError, match=r"gone\.safetensors: no such weights"):
        load_network("htdemucs", tmp_path)
    (tmp_path / "htdemucs.yaml").write_text("modles: [gone]\n")
    with pytest.raises(ConfigError, match="not the recipe"):
        load_network("htdemucs", tmp_path)
    with pytest.raises(ConfigError, match="no stem 'piano'"):
        DemucsSeparator(repo=repo, stems=("piano",))
    with pytest.raises(ConfigError, match=r"overlap = 0\.8"):
        DemucsSeparator(repo=repo, overlap=0.8)


def test_published_names_come_from_the_hub(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []

    def fetched(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert allow_patterns == ["*.yaml", "*.safetensors"]  # no pickle is even fetched
        if name.endswith("-ft"):
            raise OSError("no network here")
        return str(repo)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert load_network("htdemucs").sources == SOURCES
    with pytest.raises(ConfigError, match=r"'htdemucs_ft' was not fetched.*no network here"):
        load_network("htdemucs_ft")
    assert asked == ["adefossez/HTDemucs", "adefossez/HTDemucs-ft"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "demucs.apply", None)
    with pytest.raises(MissingExtraError, match=r"duotok\[demucs\]"):
        load_network("htdemucs", "anywhere")
