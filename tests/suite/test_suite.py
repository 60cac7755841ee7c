"""`duotok eval all`: a suite in one file, and what the commands print."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.comparison.test_run import FINE, Toy, make_songs, setup
from tests.suite.fakes import HERE, Steps, pair, steps_sound
from typer.testing import CliRunner, Result

from duotok.audio.io import write
from duotok.cli.main import app
from duotok.errors import ConfigError, MetricError
from duotok.evaluation.store import read_cells
from duotok.evaluation.systems import CodecSystem, SystemConfig, open_system
from duotok.lm.corpus import write_tokens
from duotok.suite import experiments, predictability, units
from duotok.suite import run as suite
from duotok.suite.config import load_suite
from duotok.suite.songs import SongsConfig, SongSet

SUITE: dict[str, Any] = {
    "songs": {"folder": "songs", "seconds": 1.0, "separator": "none"},
    "tokenizers": {"ours": {"model": "fake"}, "the sound itself": "original"},
    "instruments": {
        "reconstruction": {"names": ["mel"]},
        "stability": {"cases": ["again", "other_song"]},
        "usage": None,
    },
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units run in this process, and `fake` is a tokenizer."""

    def opened(config: SystemConfig) -> Any:
        return CodecSystem(Steps(), config.name) if config.model == "fake" else open_system(config)

    units._system.cache_clear()
    monkeypatch.setattr(units, "open_system", opened)
    monkeypatch.setattr(suite, "open_system", opened)
    monkeypatch.setattr(suite, "LocalEngine", lambda workers, apart: HERE)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    for n in range(2):
        pair(tmp_path / "songs", f"song{n}", seed=n)
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_all_instruments_on_all_tokenizers(written: Path, tmp_path: Path) -> None:
    command = ("eval", "all", "-c", written, "-o", tmp_path / "store")
    planned = json.loads(run(*command, "--dry-run", "--json").stdout)
    assert [(t["tokenizer"], t["instrument"], t["songs"]) for t in planned["todo"]] == [
        (name, instrument, 2)
        for name in ("ours", "the sound itself")
        for instrument in ("reconstruction", "stability", "usage")
    ]
    assert not (tmp_path / "store").exists()
    for more in ((), ("--dry-run",)):
        refused = run("eval", "all", "-c", written, "-o", written, *more)
        assert refused.exit_code == 1 and "a file; results go into a folder" in refused.stderr
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    for told in (
        "# Reconstruction",
        "# Stability",
        "# Usage",
        "| ours | 1.60 |",
        "the sound itself has no tokens",
        "| 1.000 |",
    ):
        assert told in result.stdout, told
    assert "nan" not in result.stdout.lower() and "|  |" not in result.stdout
    cells, problems = read_cells(tmp_path / "store")
    assert len(cells) == 6 and problems == []
    again = json.loads(run(*command, "--json", "--set", "songs.limit=2").stdout)
    assert [s["mean"] for s in again["summaries"] if s["measure"] == "again" and s["tokenizer"] == "ours"] == [1.0, 1.0]
    assert {c["created"] for c in again["cells"]} == {c.created for c in cells}  # nothing was measured again


def test_suites_that_cannot_be(written: Path, tmp_path: Path) -> None:
    for change, told in (
        ({"instruments": {"tagging!": {}}}, "instrument 'tagging!' does not exist"),
        ({"instruments": {"stability": {"case": ["again"]}}}, "instrument 'stability': settings case; it has cases"),
        ({"instruments": {"tagging": {"probes": ["cnn"]}}}, "probe 'cnn' does not exist"),
        ({"instruments": {"leakage": {"level": [-10]}}}, "unknown key 'level'"),
        ({"tokenizers": {}}, "tokenizers"),
        ({"songs": {"folder": "nowhere"}}, "no such folder"),
        ({"songs": {"folder": "songs", "lengths": 3}}, "unknown key 'songs.lengths'"),
    ):
        written.write_text(yaml.safe_dump({**SUITE, **change}))
        with pytest.raises(ConfigError, match=told):
            load_suite(written, tmp_path / "store")
    written.write_text(yaml.safe_dump({**SUITE, "tokenizers": {"a": "missing-bundle"}}))
    result = run("eval", "all", "-c", written, "-o", tmp_path / "store")
    assert result.exit_code == 1 and "missing-bundle" in result.stderr and "Traceback" not in result.stderr


def test_what_the_songs_do_not_have_is_a_gap_with_its_remedy(written: Path, tmp_path: Path) -> None:
    (tmp_path / "mixes").mkdir()
    write(tmp_path / "mixes" / "one.wav", steps_sound(1.5), 48_000)
    every = {name: values for name, values in SUITE.items() if name != "instruments"}
    written.write_text(yaml.safe_dump({**every, "songs": {**SUITE["songs"], "folder": "mixes"}}))
    command = ("eval", "all", "-c", written, "-o", tmp_path / "store")
    only = ("tagging", "matched-decoder", "leakage")
    options = [part for name in only for part in ("--instrument", name)]
    remedies = {
        "tagging.conformer": "pseudo=FOLDER",
        "matched-decoder": "data: CORPUS=FOLDER",
        "leakage": "data: CORPUS=FOLDER",
    }
    planned = json.loads(run(*command, *options, "--dry-run", "--json").stdout)["todo"]
    assert {(t["tokenizer"], t["instrument"]) for t in planned} == {
        (name, instrument) for name in SUITE["tokenizers"] for instrument in remedies
    }
    assert all(remedies[t["instrument"]] in t["gap"] for t in planned) and not (tmp_path / "store").exists()
    done = run(*command, *options)
    assert done.exit_code == 0, done.stderr
    cells, _ = read_cells(tmp_path / "store")
    assert len(cells) == 6 and all(remedies[c.inputs.instrument] in c.gap and c.failures for c in cells)
    assert (
        done.stdout.count("ours: not measured: ") == 3 and "- leakage: no song of mixes has true stems" in done.stdout
    )
    usual = json.loads(run(*command, "--dry-run", "--json").stdout)["todo"]
    assert {t["instrument"] for t in usual} == {"reconstruction", "stability", "usage"}, "what trains has to be named"
    wrong = run(*command, "--instrument", "taging")
    assert (
        wrong.exit_code == 1
        and "it has reconstruction, stability, usage, tagging, matched-decoder, leakage" in wrong.stderr
    )


def test_tagging_takes_the_songs_of_the_suite_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "song-00000001").mkdir()
    (tmp_path / "song-00000001" / "song.json").write_text("{}")
    opened: list[Any] = []
    monkeypatch.setattr(experiments.tagging, "plan", lambda settings, systems, store: opened.append(settings))
    songs = SongSet(SongsConfig(folder=str(tmp_path), limit=3), ())
    experiments.ask("tagging", {}).open([], tmp_path, songs)
    experiments.ask("tagging", {"data": "pseudo=there", "limit": 5}).open([], tmp_path, songs)
    assert [(one.data, one.limit) for one in opened] == [(f"songs={tmp_path}", 3), ("pseudo=there", 5)]


def test_language_models_join_the_store(tmp_path: Path) -> None:
    toy, store, lines = Toy(), tmp_path / "store", list[str]()
    path = setup(tmp_path, corruption={"shifts": [1.0], "ratios": []})
    fine, coarse = predictability.study(path, store, lines.append, runner=toy)
    assert [row.value for row in fine.rows if row.measure == "parallel.cnbpt"] == pytest.approx([0.5] * 21)
    assert {(r.track, r.item) for r in coarse.rows if r.measure == "vocals-to-accompaniment.cnbpt"} == {
        (track, f"song{n}") for track in ("accompaniment", "average") for n in range(2, 9)
    }
    assert fine.about["values"]["parallel"]["average.cnbpt"][0] == pytest.approx(0.5)
    assert fine.about["corruption"]["vocals-to-accompaniment"]["mismatch"] is not None and fine.about["songs"] == 7
    assert (fine.about["frame_rate"], fine.about["streams"]) == (25.0, {"vocals": [64], "accompaniment": [1024]})
    trained = len(toy.runs)
    predictability.study(path, store, lines.append, runner=toy)
    assert len(toy.runs) == trained and [c.inputs.instrument for c in read_cells(store)[0]] == ["lm", "lm"]
    assert {(one.why, one.minutes) for one in predictability.todo(path, store)} == {("", 0.0)}
    with pytest.raises(MetricError, match="lacks song"):
        predictability.study(setup(tmp_path / "odd", lambda songs: songs[1:]), store, lines.append, runner=toy)


def test_figures_of_other_tokens_are_not_those_of_these(tmp_path: Path) -> None:
    """Songs of the same names and lengths that were packed again with other tokens: measured anew or refused, never answered."""
    path, store = setup(tmp_path, seeds=[0], protocols=["parallel"]), tmp_path / "store"
    before, *_ = predictability.study(path, store, lambda _: None, runner=Toy())
    turned = [
        replace(song, tokens={name: codes[:, ::-1].copy() for name, codes in song.tokens.items()})
        for song in make_songs(FINE)
    ]
    write_tokens(tmp_path / "fine.parquet", FINE, turned)
    with pytest.raises(ConfigError, match="was run with tokens = "):
        predictability.study(path, store, lambda _: None, runner=Toy())
    after, *_ = predictability.study(path, tmp_path / "another", lambda _: None, runner=Toy())
    assert after.inputs.data_hash != before.inputs.data_hash


def test_commands_for_one_instrument(written: Path, tmp_path: Path) -> None:
    options = ("--songs", written.parent / "songs", "-o", tmp_path / "store", "--seconds", "1", "--separator", "none")
    done = run(
        "eval",
        "reconstruction",
        "ours=fake",
        "original",
        *options,
        "--measure",
        "mel",
        "--keep-audio",
        tmp_path / "kept",
    )
    assert done.exit_code == 0 and "| original | - | 0.000 |" in done.stdout, done.stderr
    assert (tmp_path / "kept" / "ours" / "mix.scp").is_file() and "for VERSA: 9 lists" in done.stderr
    done = run("eval", "stability", "ours=fake", *options, "--case", "again", "--json")
    assert [s["mean"] for s in json.loads(done.stdout)["summaries"]] == [1.0, 1.0]
    assert len(read_cells(tmp_path / "store")[0]) == 3
    wrong = run("eval", "stability", "ours=fake", *options, "--case", "agian")
    assert wrong.exit_code == 1 and "case 'agian' does not exist" in wrong.stderr
