"""Systems x instruments x songs: resumed at the song, broken where it is broken only, and never silent about it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.suite.fakes import HERE, Steps, pair

from duotok.errors import BundleError, ConfigError
from duotok.evaluation.instrument import Observation, Song
from duotok.evaluation.results import Cell, Inputs, Measure, Row
from duotok.evaluation.store import read_cells
from duotok.evaluation.summaries import summarise
from duotok.evaluation.summaries import told as in_a_cell
from duotok.evaluation.systems import CodecSystem, SystemConfig, open_system, parse_system
from duotok.evaluation.usage import Usage
from duotok.suite import run as suite
from duotok.suite import units
from duotok.suite.costs import in_all
from duotok.suite.run import Plan, choose, conduct, dry_run
from duotok.suite.songs import SongsConfig, find_songs
from duotok.suite.table import as_json, as_markdown
from duotok.suite.units import ORIGINAL
from duotok.suite.versa import check_folder, write_lists

CHEAP = ("mel", "si_sdr", "loudness_error")


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    for n in range(3):
        pair(tmp_path / "songs", f"song{n}", seed=n)
    return tmp_path / "songs"


@pytest.fixture(autouse=True)
def systems(monkeypatch: pytest.MonkeyPatch) -> dict[str, Steps]:
    """`fake:FAULT` opens a Steps; everything else as it is."""
    made: dict[str, Steps] = {}

    def opened(config: SystemConfig) -> Any:
        kind, _, fault = config.model.partition(":")
        if kind != "fake":
            return open_system(config)
        if fault == "missing":
            raise BundleError("fake: no such model; get it")
        codec = made.setdefault(fault, Steps(fault))
        return CodecSystem(codec, config.name or f"steps {fault}".strip())

    units._system.cache_clear()
    monkeypatch.setattr(units, "open_system", opened)
    monkeypatch.setattr(suite, "open_system", opened)
    return made


@pytest.fixture
def plan(songs: Path, tmp_path: Path) -> Callable[..., Plan]:
    def make(*models: str, instruments: Any = None, song: dict[str, Any] = {}, **changes: Any) -> Plan:  # noqa: B006
        found = find_songs(SongsConfig(**{"folder": str(songs), "seconds": 1.0, "separator": "none", **song}))
        chosen = instruments or (choose("reconstruction", names=list(CHEAP)),)
        return Plan(tuple(parse_system(m) for m in models), chosen, found, tmp_path / "store", **changes)

    return make


def means(cells: Any) -> dict[tuple[str, str, str], Any]:
    return {(s.tokenizer, s.measure.name, s.track): s for s in summarise(cells)}


def test_every_value_arrives(plan: Callable[..., Plan], tmp_path: Path) -> None:
    done = conduct(plan("fake:", "original"), engine=HERE)
    assert done.problems == [] and [c.inputs.tokenizer for c in done.cells] == ["steps", "original"]
    found = means(done.cells)
    assert len(found) == 2 * 3 * 3 and all(s.n == 3 and s.failures == 0 for s in found.values())
    for track in ("vocals", "accompaniment", "mix"):  # the control: what changes nothing is perfect in everything
        assert found["original", "mel", track].mean == pytest.approx(0, abs=1e-6)
        assert found["original", "loudness_error", track].mean == pytest.approx(0, abs=1e-6)
        assert found["original", "si_sdr", track].mean > 60 > found["steps", "si_sdr", track].mean
    cells, problems = read_cells(tmp_path / "store")
    assert problems == [] and {c.inputs.key for c in cells} == {c.inputs.key for c in done.cells}
    about = done.cells[0].about
    assert about["streams"] == {"vocals": [256], "accompaniment": [256]} and about["kbps"] == pytest.approx(1.6)
    assert about["data"]["songs"] == 3 and done.cells[0].versions["torch"]


def test_what_is_done_stays_and_what_changed_is_measured_again(
    plan: Callable[..., Plan], systems: dict[str, Steps], songs: Path
) -> None:
    conduct(plan("fake:"), engine=HERE)
    assert systems[""].encoded == 3
    conduct(plan("fake:"), engine=HERE)
    assert systems[""].encoded == 3
    (plan("fake:").store / "reconstruction.steps.parquet").unlink()  # a lost table is put together from the ledger
    (cell,) = conduct(plan("fake:"), engine=HERE).cells
    assert systems[""].encoded == 3 and len(cell.rows) == 27
    pair(songs, "song1", seed=9)
    lines = list[str]()
    (other,) = conduct(plan("fake:"), engine=HERE, report=lines.append).cells
    assert systems[""].encoded == 4 and other.inputs.data_hash != cell.inputs.data_hash
    conduct(plan("fake:", force=True), engine=HERE)
    assert systems[""].encoded == 7
    assert [line for line in lines if "that result is replaced" in line] == [
        f"reconstruction of steps: measured on other data ({cell.inputs.data_hash[:8]}, now {other.inputs.data_hash[:8]}); "
        f"that result is replaced in {plan('fake:').store}"
    ]
    lines.clear()
    fewer = plan("fake:", instruments=(choose("reconstruction", names=["mel"]),))
    conduct(fewer, engine=HERE, report=lines.append)
    assert systems[""].encoded == 10 and any("measured with other settings (names" in line for line in lines)


def test_what_decodes_counts_for_what_is_heard_alone(plan: Callable[..., Plan], systems: dict[str, Steps]) -> None:
    """Another renderer of the same tokens: its sounds are measured again, its tokens are not."""
    both = (choose("reconstruction", names=["mel"]), choose("usage"))

    def asked() -> Plan:
        return plan("fake:", instruments=both, song={"limit": 1})

    conduct(asked(), engine=HERE)
    systems[""].sound_hash = "another renderer"
    heard, counted = dry_run(asked())[0]
    assert (heard.songs, counted.songs) == (1, 0) and "sound" in heard.why and not counted.why
    before = systems[""].encoded
    cell, _ = conduct(asked(), engine=HERE).cells
    assert systems[""].encoded == before + 1 and cell.inputs.config["sound"] == "another renderer"
    assert not any(todo.why for todo in dry_run(asked())[0])


def test_a_tokenizer_that_codes_the_mix_is_another_than_of_two_tracks(
    plan: Callable[..., Plan], systems: dict[str, Steps]
) -> None:
    """`tracks: [mix]` in a suite: the weights and their hash are the same, the tokens are not."""
    both = (choose("reconstruction", names=["mel"]), choose("usage"))

    def asked() -> Plan:
        return plan("fake:", instruments=both, song={"limit": 1})

    two = conduct(asked(), engine=HERE).cells
    assert all("streams" not in cell.inputs.config for cell in two), "what was measured before counts"
    systems[""].streams = Steps(streams=("mix",)).streams
    assert all("streams" in todo.why for todo in dry_run(asked())[0])
    one = conduct(asked(), engine=HERE).cells
    assert {row.track for cell in one for row in cell.rows if row.value is not None} == {"mix"}
    assert not any(todo.why for todo in dry_run(asked())[0])


def test_an_interrupted_run_goes_on_at_the_song(
    plan: Callable[..., Plan], systems: dict[str, Steps], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Steps.encode

    def interrupted(self: Steps, *args: Any, **given: Any) -> Any:
        if self.encoded == 2:
            raise KeyboardInterrupt
        return encode(self, *args, **given)

    monkeypatch.setattr(Steps, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        conduct(plan("fake:"), engine=HERE)
    assert list(plan("fake:").store.glob("*.json")) == []
    monkeypatch.setattr(Steps, "encode", encode)
    (cell,) = conduct(plan("fake:"), engine=HERE).cells
    assert systems[""].encoded == 3 and not cell.failures


def test_a_codec_that_breaks_on_one_song_costs_that_song(plan: Callable[..., Plan], songs: Path) -> None:
    pair(songs, "song1", seed=1, silent=True)
    done = conduct(plan("fake:stops at silence", "original"), engine=HERE)
    broken, whole = done.cells
    reasons = {(row.item, row.reason) for row in broken.failures}
    assert {item for item, _ in reasons} == {"song1"} and len(broken.failures) == 9
    assert all("RuntimeError" in reason and "cannot divide by zero" in reason for _, reason in reasons)
    assert not [row for row in whole.failures if row.track != "vocals"]
    text = as_markdown(done.cells, done.problems)
    assert "(2 of 3)" in text and "cannot divide by zero" in text and "nan" not in text.lower()
    found = means([broken])
    assert (
        found["steps stops at silence", "mel", "mix"].n == 2
        and found["steps stops at silence", "mel", "mix"].failures == 1
    )


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("nan", "the decoded sound has NaN or infinite samples"), ("half", "0.50 s decoded of 1.00 s"), ("mute", "steps: encodes only")],
)  # fmt: skip
def test_decoded_sound_that_is_none(fault: str, reason: str, plan: Callable[..., Plan]) -> None:
    (cell,) = conduct(plan(f"fake:{fault}", song={"limit": 1}), engine=HERE).cells
    assert {row.reason for row in cell.rows} == {reason} and len(cell.rows) == 9
    assert "All songs together" not in as_markdown([cell])


def test_one_system_that_cannot_be_opened_leaves_the_others(plan: Callable[..., Plan]) -> None:
    done = conduct(plan("fake:missing", "original", "original", song={"limit": 1}), engine=HERE)
    assert [c.inputs.tokenizer for c in done.cells] == ["original"]
    assert done.problems == [
        "fake:missing: fake: no such model; get it",
        "original: 'original' is there twice; name it, as in other=original",
    ]
    assert "- fake:missing: fake: no such model; get it" in as_markdown(done.cells, done.problems)


def test_songs_that_are_too_short_are_rows_with_reasons(plan: Callable[..., Plan], songs: Path) -> None:
    pair(songs, "tiny", seconds=0.4)
    done = conduct(plan("original"), engine=HERE)
    (cell,) = conduct(plan("fake:", instruments=(choose("usage"),)), engine=HERE).cells
    assert {row.track for row in cell.failures} == {"vocals", "accompaniment"}  # where values would have been
    missing = [row for row in done.cells[0].rows if row.item == "tiny"]
    assert len(missing) == 9 and {row.reason for row in missing} == {"0.4 s of sound; at least 1 s are measured"}
    assert done.problems == ["tiny: left out: 0.4 s of sound; at least 1 s are measured"]
    text = as_markdown([*done.cells, cell])
    assert text.count("tiny") == 2, "once for each instrument, and not for every tokenizer, track and measure"
    assert "- all tokenizers: 0.4 s of sound; at least 1 s are measured (of tiny)" in text
    used = next(s for s in summarise([cell]) if s.measure.name == "utilization" and s.mean is not None)
    assert in_a_cell(used).endswith(" (without 1)"), "one value of all songs but one"


def test_many_songs_that_failed_are_five_names_and_a_number() -> None:
    mel = Measure("mel", "as named")
    rows = [Row("mel", "mix", f"song{n}", None, "silent" if n < 7 else f"reason {n}") for n in range(14)]
    text = as_markdown([Cell(Inputs("one", "reconstruction", "a" * 64, "b" * 64, {}), (mel,), tuple(rows))])
    assert "silent (of song0, song1, song2, song3, song4 and 2 more)" in text
    assert "reason 9 (of song9)" in text and "4 other reasons (of song10, song11, song12, song13)" in text
    text = as_markdown([Cell(Inputs("one", "reconstruction", "a" * 64, "b" * 64, {}), (mel,), tuple(rows[:11]))])
    assert "reason 10 (of song10)" in text and "other reasons" not in text, "a reason that stands for itself is told"


def test_a_measure_of_vocals_is_missed_where_only_the_mix_is_known(plan: Callable[..., Plan], songs: Path) -> None:
    for path in songs.glob("*.vocals.wav"):
        path.replace(path.with_name(path.name.replace(".vocals", "")))
    for path in songs.glob("*.accompaniment.wav"):
        path.unlink()
    (cell,) = conduct(plan("original", instruments=(choose("reconstruction", names=["mel", "f0"]),)), engine=HERE).cells
    assert {(row.measure, row.track, row.value is None) for row in cell.rows} == {
        ("mel", "mix", False),
        ("f0", "vocals", True),
    }
    assert {row.reason for row in cell.failures} == {"taken of vocals alone, and of this song only the mix is known"}


def test_the_rate_of_an_anchor_is_what_its_packets_took(plan: Callable[..., Plan], songs: Path) -> None:
    """libopus has no 0.5 kbit/s; it was printed as if it had."""
    (cell,) = conduct(plan("opus:500"), engine=HERE).cells
    assert cell.about["kbps_asked"] == 0.5 and 2 < cell.about["kbps"] < 12
    assert f"| opus-0.5k | {cell.about['kbps']:.2f} |" in as_markdown([cell])
    for path in songs.glob("*.vocals.wav"):
        path.replace(path.with_name(path.name.replace(".vocals", "")))
    for path in songs.glob("*.accompaniment.wav"):
        path.unlink()
    (cell,) = conduct(plan("opus:500", instruments=(choose("reconstruction", names=["mel"]),)), engine=HERE).cells
    assert {row.track for row in cell.rows} == {"mix"} and cell.about["kbps_asked"] == 0.5 < 2 < cell.about["kbps"] < 12


def test_figures_of_all_songs_together_have_no_interval_in_their_caption(plan: Callable[..., Plan]) -> None:
    cells = conduct(
        plan("fake:", instruments=(choose("usage"), choose("stability", cases=["again"]))), engine=HERE
    ).cells
    usage, stability = (as_markdown([cell]) for cell in cells)
    assert "All songs together, so there is no interval." in usage and "bootstrap interval" not in usage
    assert "bootstrap interval over songs" in stability


def test_anchors_have_no_tokens(plan: Callable[..., Plan]) -> None:
    instruments = (choose("stability", cases=["again"]), choose("usage"))
    done = conduct(plan("original", instruments=instruments, song={"limit": 1}), engine=HERE)
    assert len(done.cells) == 2 and {row.reason for cell in done.cells for row in cell.rows} == {
        "original has no tokens"
    }


def test_retry_measures_what_failed(plan: Callable[..., Plan], systems: dict[str, Steps]) -> None:
    conduct(plan("fake:mute", song={"limit": 1}), engine=HERE)
    systems["mute"].fault = ""
    (cell,) = conduct(plan("fake:mute", song={"limit": 1}), engine=HERE).cells
    assert len(cell.failures) == 9
    (cell,) = conduct(plan("fake:mute", song={"limit": 1}, retry=True), engine=HERE).cells
    assert not cell.failures


def test_kept_sounds_and_their_lists_for_versa(
    plan: Callable[..., Plan], systems: dict[str, Steps], tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    conduct(plan("fake:"), engine=HERE)
    conduct(plan("fake:", keep=kept), engine=HERE)  # measured, but not kept: done again
    assert systems[""].encoded == 6
    conduct(plan("fake:", keep=kept), engine=HERE)
    assert systems[""].encoded == 6
    with pytest.raises(ConfigError, match="holds other files"):
        check_folder(kept)
    written = write_lists(kept)
    check_folder(kept)
    with pytest.raises(ConfigError, match="cannot have paths with blanks"):
        check_folder(tmp_path / "my songs")
    assert [str(p.relative_to(kept)) for p in written] == [
        *(f"{name}/{track}.scp" for name in ("reference", "steps") for track in ("vocals", "accompaniment", "mix")), "versa.yaml",
    ]  # fmt: skip
    lines = (kept / "steps" / "vocals.scp").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["song0", "song1", "song2"]
    originals = dict(line.split() for line in (kept / "reference" / "vocals.scp").read_text().splitlines())
    from duotok.audio.io import probe

    for line in lines:
        name, path = line.split()
        assert probe(path).n_samples == probe(originals[name]).n_samples and probe(path).channels == 1
    import yaml

    assert {"name": "pesq"} in yaml.safe_load((kept / "versa.yaml").read_text())


def test_sounds_are_kept_in_the_folder_that_was_asked_for(
    plan: Callable[..., Plan], systems: dict[str, Steps], tmp_path: Path
) -> None:
    """Also when another folder has them already."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two, two):
        conduct(plan("fake:", song={"limit": 1}, keep=folder), engine=HERE)
    kept = [sorted(path.relative_to(folder) for path in folder.rglob("*.wav")) for folder in (one, two)]
    assert kept[0] == kept[1] and len(kept[0]) == 6 and systems[""].encoded == 2


def test_no_tokenizer_keeps_its_sounds_among_the_originals(plan: Callable[..., Plan], tmp_path: Path) -> None:
    named = (f"{ORIGINAL}=fake:", "ours=fake:")
    done = conduct(plan(*named, song={"limit": 1}, keep=tmp_path / "kept"), engine=HERE)
    assert [cell.inputs.tokenizer for cell in done.cells] == ["ours"]
    assert len(done.problems) == 1 and f"'{ORIGINAL}' is where originals are kept" in done.problems[0]
    assert len(conduct(plan(*named, song={"limit": 1}), engine=HERE).cells) == 2, "without sounds the name is free"


def test_dry_run_writes_nothing(plan: Callable[..., Plan], tmp_path: Path) -> None:
    todo, problems = dry_run(plan("fake:", "fake:missing"))
    assert not (tmp_path / "store").exists() and len(problems) == 1
    assert [(t.tokenizer, t.songs, t.why) for t in todo] == [("steps", 3, "not measured yet")] and todo[0].minutes > 0
    conduct(plan("fake:"), engine=HERE)
    assert dry_run(plan("fake:"))[0][0] == dataclasses.replace(todo[0], why="", songs=0, minutes=0.0)


def test_a_dry_run_says_what_it_cannot_tell(plan: Callable[..., Plan]) -> None:
    """A tokenizer that encodes and does not decode: usage can be told, reconstruction cannot."""
    todo, _ = dry_run(plan("fake:mute", instruments=(choose("reconstruction", names=["mel"]), choose("usage"))))
    assert todo[0].minutes is None and "steps: encodes only" in todo[0].unknown
    assert str(todo[0]).endswith(
        "3 stretches, unknown (decoding 4 s of noise failed: steps: encodes only) (not measured yet)"
    )  # fmt: skip
    assert todo[1].minutes is not None and todo[1].minutes > 0 and not todo[1].unknown
    assert in_all(todo, 1).endswith("and 1 cells of which it is unknown")


def test_json_has_no_nan_and_every_reason(plan: Callable[..., Plan]) -> None:
    done = conduct(plan("fake:mute", "original", song={"limit": 1}), engine=HERE)
    text = json.dumps(as_json(done.cells, done.problems), allow_nan=False)
    summaries = json.loads(text)["summaries"]
    assert {s["mean"] is None for s in summaries if s["tokenizer"] == "steps mute"} == {True}
    assert {tuple(s["reasons"]) for s in summaries if s["tokenizer"] == "steps mute"} == {("steps: encodes only",)}
    assert all(s["interval"] is None for s in summaries)  # one song


def test_every_codebook_is_in_the_table() -> None:
    """Where a stream has a row of its own its codebooks stay out; where it has none they stand for it."""
    usage = Usage()

    def cell(name: str, books: int) -> Cell:
        data = {"counts": {"vocals": [[[0, 1], [5, 5]]] * books}, "sizes": {"vocals": [4] * books}}
        rows = usage.rows([Observation("song", "", ("vocals",), data)])
        return Cell(Inputs(name, "usage", "a" * 64, "b" * 64, {}), usage.measures, tuple(rows))

    for cells in ([cell("one", 1), cell("four", 4)], [cell("four", 4)]):
        measured = {(s.tokenizer, s.track) for s in summarise(cells)}
        text = as_markdown(cells)
        for name, track in measured:
            (section,) = [part for part in text.split("## ") if part.startswith(f"{track.capitalize()}\n")]
            assert f"| {name} |" in section, (name, track)
    mel = Measure("mel", "as named")
    both = (Row("mel", "vocals", "song", 0.5), Row("mel", "vocals.1", "song", 0.25))
    text = as_markdown([Cell(Inputs("one", "usage", "a" * 64, "b" * 64, {}), (mel,), both)])
    assert "## Vocals\n" in text and "Vocals.1" not in text


def test_an_anchor_is_its_codec_whatever_it_is_called() -> None:
    """Another bit rate under the same name is another system, another name for the same is not."""

    def hash_of(model: str) -> str:
        return open_system(parse_system(model)).model_hash

    assert hash_of("x=opus:6000") != hash_of("x=opus:12000")
    assert hash_of("x=original") != hash_of("x=lowpass")
    assert hash_of("x=opus:6000") == hash_of("opus:6000") == hash_of("y=opus")


def test_names_of_systems() -> None:
    assert parse_system("dac=transformers:models/dac", 4).name == "dac"
    opus = open_system(parse_system("opus:12000"))
    assert opus.name == "opus-12k" and opus.about["kbps"] == 12
    t = torch.arange(9600) / 48_000
    low, high = torch.sin(2 * torch.pi * 500 * t), torch.sin(2 * torch.pi * 9000 * t)
    heard = open_system(parse_system("lowpass")).reconstruct(Song("a", {"mix": (low + high)[None]}))["mix"][0]
    assert float((heard - low)[1000:-1000].abs().max()) < 0.01
    for wrong, told in (("=x", "give MODEL or NAME"), ("x=", "give MODEL or NAME")):
        with pytest.raises(ConfigError, match=told):
            parse_system(wrong)
    for wrong, told in (("opus:fast", "give bits a second"), ("codec2:9", "give a mode")):
        with pytest.raises(ConfigError, match=told):
            open_system(parse_system(wrong))
    with pytest.raises(ConfigError, match="instrument 'reconstructoin' does not exist"):
        choose("reconstructoin")
    with pytest.raises(ConfigError, match="measure 'pesk' does not exist"):
        choose("reconstruction", names=["pesk"])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"names": "mel"}, "instrument 'reconstruction': names 'mel' is no list of names; write [mel]"),
        ({"names": ["mel", "stoi", "mel"]}, "instrument 'reconstruction': names: 'mel' comes twice; name it once"),
        ({"lufs": -200}, "lufs -200: give a loudness over -70 and at most 0, as in -14"),
        ({"lufs": "loud"}, "lufs loud: give a loudness over -70 and at most 0, as in -14"),
        ({"lufs": float("nan")}, "lufs nan: give a loudness over -70 and at most 0, as in -14"),
    ],
)
def test_settings_of_an_instrument_that_cannot_be(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        choose("reconstruction", **fields)
    assert str(error.value) == told
