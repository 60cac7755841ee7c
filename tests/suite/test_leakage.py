"""Leakage: the levels are what they say, equal sounds have equal tokens, gaps are named, a stopped run goes on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.lm import small
from tests.suite.conftest import run_suite, suite_of
from tests.suite.fakes import HERE
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.errors import AudioError, ConfigError
from duotok.evaluation.results import Cell
from duotok.evaluation.store import read_cells, why_not_done, write_cell
from duotok.evaluation.systems import parse_system
from duotok.lm.protocols import parallel
from duotok.lm.saved import LanguageModel
from duotok.separation import ChunkedSeparator
from duotok.suite.leakage import experiment as leakage
from duotok.suite.leakage import work
from duotok.suite.leakage.figure import draw
from duotok.suite.leakage.measure import chance_share, equal_share, keep, kept, measure
from duotok.suite.leakage.statistics import unigram_rows
from duotok.suite.leakage.stems import DIRECT, TRUE, leaked, open_separators, variants
from duotok.suite.leakage.table import figures_of
from duotok.suite.runner import Runner
from duotok.suite.true_stems import stretches, true_songs

CALL = ["--set", "seconds=2", "--set", "levels=[-20]"]


@pytest.fixture
def stems() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "vocals": 0.2 * torch.randn(2, 48_000, generator=draw),
        "accompaniment": 0.1 * torch.randn(2, 48_000, generator=draw),
    }


def test_the_other_track_is_as_soft_as_it_says(stems: dict[str, torch.Tensor]) -> None:
    made = leaked(stems, -20.0)
    for track, other in (("vocals", "accompaniment"), ("accompaniment", "vocals")):
        rest = made[track] - stems[track]
        level = 10 * torch.log10(rest.square().mean() / stems[other].square().mean())
        assert float(level) == pytest.approx(-20.0, abs=1e-3)


def test_shares() -> None:
    codes = torch.tensor([[1, 2, 3, 4], [1, 1, 1, 1]])
    assert equal_share(codes, codes) == 1.0
    assert equal_share(codes, torch.tensor([[1, 2, 0, 0, 9], [1, 1, 1, 1, 9]])) == 0.75
    assert chance_share(codes) == 0.5, "the second codebook never changes"


def test_true_stems_are_their_own_reference(model: DuoTok, stems: dict[str, torch.Tensor]) -> None:
    other = {track: torch.randn(2, 48_000) * 0.1 for track in stems}
    found = measure(model, "song", "0", stems, [(TRUE, stems), ("same", stems), ("other", other)], decode=False)
    values = {(row.measure, row.track): row.value for row in found.rows}
    assert values["equal.same", "vocals"] == values["equal.same", "accompaniment"] == 1.0
    assert float(values["equal.other", "vocals"] or 0) < 1.0
    assert not any(name == "equal.true" for name, _ in values)


def test_a_condition_that_fails_is_named_and_stops_no_other(model: DuoTok, stems: dict[str, torch.Tensor]) -> None:
    broken = AudioError("separator: out of order")
    found = measure(model, "song", "0", stems, [(TRUE, stems), ("broken", broken), ("same", stems)], decode=False)
    assert {row.reason for row in found.rows if row.measure == "equal.broken"} == {"separator: out of order"}
    assert any(row.measure == "equal.same" and row.value == 1.0 for row in found.rows)


def test_the_mix_goes_in_beside_silence_as_the_accompaniment(stems: dict[str, torch.Tensor]) -> None:
    made = dict(variants(stems, (), ()))
    direct = made[DIRECT]
    assert isinstance(direct, dict) and not direct["vocals"].any()
    assert torch.equal(direct["accompaniment"], stems["vocals"] + stems["accompaniment"])


def test_separators_that_do_not_open_are_gaps() -> None:
    found, gaps = open_separators(["mini", "bs-roformer"])
    assert [separator.name for separator in found] == ["mini"] and isinstance(found[0].separator, ChunkedSeparator)
    assert "needs weights" in gaps["bs-roformer"]
    with pytest.raises(ConfigError, match="no separator 'minni'"):
        open_separators(["minni"])


def test_a_separator_has_a_name_of_its_own() -> None:
    """Rows and settings are found by it: of two with one name each would be shown for the other."""
    with pytest.raises(ConfigError, match="separator 'mini' is named twice"):
        open_separators(["mini", "mini=elsewhere"])


def test_what_is_kept_comes_back(tmp_path: Path, model: DuoTok, stems: dict[str, torch.Tensor]) -> None:
    found = measure(model, "song", "0", stems, [(TRUE, stems)], decode=False)
    keep(tmp_path / "a", found)
    again = kept(tmp_path / "a")
    assert again is not None and again.rows == found.rows
    assert torch.equal(again.codes[TRUE]["vocals"], found.codes[TRUE]["vocals"])
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-3])
    assert kept(tmp_path / "a") is None and kept(tmp_path / "b") is None


def test_the_unigram_cost_is_learned_from_other_songs(model: DuoTok) -> None:
    size = model.codebook_sizes[0]
    one, two = torch.zeros(1, 50, dtype=torch.int32), torch.full((1, 50), 3, dtype=torch.int32)

    def cost(codes: torch.Tensor, other: torch.Tensor) -> float:
        parts = {(name, ""): {TRUE: {"vocals": c, "accompaniment": c}} for name, c in (("a", codes), ("b", other))}
        rows = unigram_rows(model, parts)
        return next(
            row.value or 0.0 for row in rows if (row.measure, row.track, row.item) == ("unigram.true", "vocals", "a")
        )

    assert cost(one, one) < 0.5 < 1 < cost(one, two), (
        f"codes of {size} that the other song never has cost more than log2 V"
    )


def test_the_command(tmp_path: Path, songs: Path, bundle: Path) -> None:
    store = tmp_path / "store"
    call = ["eval", "leakage", f"tiny={bundle}", "--data", f"songs={songs}", "--limit", "1", "-o", str(store), *CALL]
    picture = tmp_path / "leakage.svg"
    call += ["--separator", f"mini={bundle}", "--picture", str(picture)]
    plan = CliRunner().invoke(app, [*call, "--dry-run"])
    assert (
        plan.exit_code == 0 and "leakage of tiny: 1 songs under 4 kinds of stems" in plan.stdout and not store.exists()
    )
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert "| tiny | other track at -20 dB |" in done.stdout and "| tiny | separated by mini |" in done.stdout
    assert "|  |" not in done.stdout and "| true | – | – |" in done.stdout, "no cell is blank"
    assert b"<svg" in picture.read_bytes()
    (cell,), problems = read_cells(store)
    assert not problems
    figures = figures_of(cell)
    assert figures["equal", "leak-20", "vocals"].n == 1 and figures["mel", "direct", "mix"].mean is not None
    priced = replace(cell, inputs=replace(cell.inputs, tokenizer=r"$\of mixes$"))
    draw([priced], tmp_path / "priced.svg")  # a dollar is no formula
    assert b"<svg" in (tmp_path / "priced.svg").read_bytes()
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        draw([cell], tmp_path / "again.pdf")
    suite = suite_of(tmp_path, songs, bundle, limit=1)
    leak = {"seconds": 2, "levels": [-20], "separators": [f"mini={bundle}"]}
    suite["instruments"] = {"leakage": leak}
    found = run_suite(tmp_path, suite)
    assert [(c.inputs.tokenizer, c.gap) for c in found.cells] == [
        ("tiny", ""),
        ("the sound itself", "the sound itself has no tokens"),
    ]
    assert found.cells[0].created == cell.created, "the command has measured it"
    picture.write_bytes(b"somebody's")
    assert CliRunner().invoke(app, call).exit_code == 1, "a picture that is not ours stays"


@pytest.fixture
def leakage_plan(songs: Path, bundle: Path, tmp_path: Path) -> leakage.Plan:
    """Two songs, one leak, nothing decoded."""
    for name in sorted(path.name for path in songs.iterdir())[:2]:
        shutil.copytree(songs / name, tmp_path / "songs" / name)
    return opened(tmp_path, bundle)


def opened(folder: Path, bundle: Path) -> leakage.Plan:
    settings = leakage.LeakageSettings(
        data=f"songs={folder / 'songs'}",
        seconds=2,
        levels=(-20.0,),
        decode=False,
        separators=(f"mini={bundle}",),
        lms=(),
    )
    return leakage.plan(settings, [parse_system(f"tiny={bundle}")], folder / "store")


def test_a_stopped_run_goes_on_at_the_next_song(
    leakage_plan: leakage.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    true, calls = work.measure, []

    def stop_at_second(codec: DuoTok, song: str, *rest: object) -> object:
        calls.append(song)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return true(codec, song, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(work, "measure", stop_at_second)
    runner = Runner(leakage_plan.store)
    with pytest.raises(KeyboardInterrupt):
        leakage_plan.conduct(runner)
    assert [todo.songs for todo in leakage_plan.todo()] == [1]
    (cell,) = leakage_plan.conduct(runner).cells
    assert len(calls) == 3 and calls[1] == calls[2] and not leakage.song_failures(cell)


def test_a_song_that_failed_is_measured_again_when_it_is_mended_or_on_retry(
    leakage_plan: leakage.Plan, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, calls = work.measure, list[str]()
    broken = leakage_plan.songs[0].id

    def measured(codec: DuoTok, song: str, *rest: object, fault: bool = False) -> object:
        calls.append(song)
        if fault and song == broken:
            raise AudioError("out of order")
        return true(codec, song, *rest)  # type: ignore[arg-type]

    vocals = tmp_path / "songs" / broken / "vocals.wav"
    whole = vocals.read_bytes()
    vocals.write_bytes(b"no sound")
    monkeypatch.setattr(work, "measure", measured)
    (cell,) = opened(tmp_path, bundle).conduct(Runner(leakage_plan.store)).cells
    assert {row.item for row in leakage.song_failures(cell)} == {broken}, "the other song arrives"
    vocals.write_bytes(whole)
    calls.clear()
    monkeypatch.setattr(work, "measure", lambda *given: measured(*given, fault=True))
    (cell,) = opened(tmp_path, bundle).conduct(Runner(leakage_plan.store)).cells
    assert calls == [broken], "mended, so it is measured again, and it alone"
    assert [row.reason for row in leakage.song_failures(cell)] == ["out of order"]
    monkeypatch.setattr(work, "measure", measured)
    leakage_plan.conduct(Runner(leakage_plan.store))
    assert calls == [broken], "what failed stays as it is"
    assert leakage_plan.todo(retry=True)[0].why == "some of it failed"
    (cell,) = leakage_plan.conduct(Runner(leakage_plan.store, retry=True)).cells
    assert calls == [broken] * 2 and not leakage.song_failures(cell)


def test_a_separator_that_failed_separates_again_on_retry(
    leakage_plan: leakage.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, calls, broken = ChunkedSeparator.separate, list[int](), [True]

    def separate(self: ChunkedSeparator, *given: torch.Tensor) -> object:
        calls.append(1)
        if broken[0]:
            raise AudioError("out of memory")
        return true(self, *given)

    def run(retry: bool) -> list[float | None]:
        (cell,) = leakage_plan.conduct(Runner(leakage_plan.store, HERE, retry=retry)).cells
        return [row.value for row in cell.rows if row.measure == "equal.mini"]

    monkeypatch.setattr(ChunkedSeparator, "separate", separate)
    assert set(run(retry=False)) == {None}
    broken[0], first = False, len(calls)
    assert set(run(retry=False)) == {None} and len(calls) == first, "what failed stays as it is"
    assert leakage_plan.todo(retry=True)[0].songs == 2
    assert None not in run(retry=True)
    after = len(calls)
    run(retry=True)
    assert after > first and len(calls) == after, "what did not fail is not measured twice"


def test_another_language_model_is_another_measurement(leakage_plan: leakage.Plan, tmp_path: Path) -> None:
    """Also when it lies in a folder of the same name, as every training run's does."""

    def asked(run: str, seed: int) -> leakage.Plan:
        lm = LanguageModel(small.model(seed=seed), parallel(small.CODEC), 2.0, tmp_path / run / "lm")
        return replace(leakage_plan, lms=(lm,))

    inputs = asked("a", 0).inputs("tiny", small.CODEC.hash)
    write_cell(tmp_path / "store", Cell(inputs, (), ()))
    assert not why_not_done(tmp_path / "store", asked("elsewhere", 0).inputs("tiny", small.CODEC.hash))
    assert "other settings (lm " in why_not_done(tmp_path / "store", asked("b", 1).inputs("tiny", small.CODEC.hash))


def test_what_decodes_counts_where_that_is_heard(leakage_plan: leakage.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another renderer of the same tokens is another measurement, and has stretches of its own; of tokens alone it is the same."""
    (one,), song = leakage_plan.tokenizers, leakage_plan.songs[0]
    decoding = replace(leakage_plan, settings=leakage_plan.settings.model_copy(update={"decode": True}))
    plans = (leakage_plan, decoding)
    before = [(plan.of(one), plan.folder(one, song)) for plan in plans]
    monkeypatch.setattr(one.codec, "sound_hash", "another renderer", raising=False)
    tokens, sounds = [(plan.of(one), plan.folder(one, song)) for plan in plans]
    assert tokens == before[0]
    assert sounds[0].config != before[1][0].config and sounds[1] != before[1][1]


def test_stretches_are_those_of_the_song(songs: Path) -> None:
    (song,) = true_songs(f"songs={songs}", limit=1)
    assert [start for start, _ in stretches(song, 0.5, 3)] == [0.25, 0.75, 1.25]
