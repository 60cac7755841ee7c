"""The recipe: what it starts from must be there, what could be lost stays, and both are told before the first hour."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.slow_to_end import ctrl_c_when_it_has_begun, slow_to_end

from duotok.audio.io import write
from duotok.corpora.index import COLUMNS
from duotok.data.catalog import open_corpora
from duotok.errors import ConfigError, DuoTokError
from duotok.recipes import mini_bundle
from duotok.recipes.mini_bundle import TASKS, Runner, arguments, corpora_of, make_mini, prepare_data


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    write(folder / "0.wav", torch.zeros(1, 4800), 48_000)
    return folder


def runner(**changes: object) -> Runner:
    values: dict[str, object] = {
        "runs": Path("runs"), "stages": Path("recipes"), "workers": 2, "parallel": 1, "minutes": {}, "settings": [],
    }  # fmt: skip
    return Runner(**{**values, **changes})  # type: ignore[arg-type]


def test_every_task_comes_after_tasks_that_are_there() -> None:
    for name, task in TASKS.items():
        assert set(task.after) <= set(TASKS) - {name}


def test_commands_name_packaged_recipes_and_say_what_was_set() -> None:
    made = runner(
        stages=mini_bundle.config_folder("gpu"),
        minutes={"stage1": 2.5},
        settings=["stage1.lr=0.5", "all.steps=3", "stage2.lr=1"],
    )
    words = made.command("stage1")
    assert words[words.index("--config") + 1] == "gpu/stage1"
    assert [words[n + 1] for n, word in enumerate(words) if word == "--set"] == ["lr=0.5", "steps=3"]
    assert words[words.index("--minutes") + 1] == "2.5"
    assert "track=vocals" in made.command("stage4.vocals") and "--prepare" in made.command("masks")
    mine = runner(stages=Path("mine")).command("stage1")
    assert mine[mine.index("--config") + 1] == str(Path("mine") / "stage1.yaml")


def index(folder: Path, *paths: str) -> None:
    """INDEX.tsv of songs, and of single stems where a name has `__`."""
    kinds = ["instrumental_stem" if "__" in path else "song" for path in paths]
    rows = [
        (path, "train", kind, "0", "1", "1", "yes", "CC0", "me", "") for path, kind in zip(paths, kinds, strict=True)
    ]
    (folder / "INDEX.tsv").write_text("\n".join("\t".join(row) for row in (COLUMNS, *rows)) + "\n")


def test_the_packaged_lists_are_read_from_anywhere(
    tmp_path: Path, audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(audio, "dual/Potassium.mix.ogg", "dual/Rubidium.mix.ogg")
    monkeypatch.chdir(tmp_path)
    assert corpora_of([audio])[1] == ["index.held_out=Potassium", "index.validation=0", "index.held_out_test=Rubidium"]


def test_lists_hold_out_songs_wherever_an_index_has_them(tmp_path: Path) -> None:
    """Those beside INDEX.tsv, and those of which there are single stems alone, were trained on, without a word."""
    (tmp_path / "held_out.txt").write_text("top\nsong\n")
    (tmp_path / "test.txt").write_text("two\n")
    index(tmp_path, "top.ogg", "stems/song__bass.ogg", "dual/two.vocals.ogg", "dual/two.accompaniment.ogg", "other.ogg")
    (corpus,) = open_corpora(*corpora_of([tmp_path], tmp_path))
    splits = {recording.identity: recording.split for recording in corpus.recordings()}
    assert splits == {"top": "validation", "song": "validation", "two": "test", "other": "train"}


def test_a_name_of_own_lists_that_no_index_has_is_one_line(tmp_path: Path) -> None:
    index(tmp_path, "one.ogg")
    (tmp_path / "held_out.txt").write_text("one\nuno\n")
    with pytest.raises(ConfigError, match=r"held_out.txt: 'uno' is no song of an INDEX.tsv"):
        corpora_of([tmp_path], tmp_path)


def test_a_corpus_of_which_nothing_can_be_read_stops_the_recipe(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir(), bad.mkdir()
    for n in range(2):
        write(good / f"{n}.wav", 0.1 * torch.randn(2, 48_000 * 6), 48_000)
        (bad / f"{n}.wav").write_bytes(b"RIFF no sound at all")
    with pytest.raises(
        DuoTokError, match=r"folder1: none of its 2 recordings can be read \(.+\); fix it or leave it out"
    ):
        prepare_data([good, bad], tmp_path / "work", workers=1)
    (good / "2.wav").write_bytes(b"RIFF no sound at all")  # one of three may fail
    store = prepare_data([good], tmp_path / "other", workers=1)
    assert len(store) > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--audio", "{}/none"], r"--audio .*none: no such folder; name a folder of audio"),
        (["--audio", "{}/audio/0.wav"], r"--audio .*0\.wav: is a file; name the folder it lies in"),
        (["--runs", "{}/audio/0.wav"], r"0\.wav: is a file, and the recipe's folder would be there"),
        (["--runs", "{}"], r"audio: lies in .*, where the recipe writes; name another --runs"),
        (["--runs", "{}/audio/x"], r"audio/x lies in it, whose songs would be taken for yours; name another --runs"),
        (["--bundle", "{}/audio"], r"audio: holds other files and no bundle; name another --bundle"),
        (["--bundle", "{}/audio/0.wav"], r"0\.wav: is a file, and the bundle's folder would be there"),
        (["--stages", "minni"], r"minni: no such folder, and no recipe of that name; the nearest is mini"),
        (["--stages", "lm"], r"lm/autoencoder\.yaml|lm/autoencoder: no such file"),
        (["--only", "stage1,stage9"], r"--only: 'stage9' is no task; there are samples"),
        (["--only", ""], r"--only: '' is no task"),
        (["--minutes", "masks=3"], r"--minutes masks=3: 'masks' is no task that trains"),
        (["--minutes", "stage1=-3"], r"--minutes stage1=-3: write TASK=MINUTES"),
        (["--set", "stag1.lr=3"], r"--set stag1\.lr=3: write STAGE\.KEY=VALUE; stages are adapt"),
        (["--set", "stage1.lrr=3"], r"mini/stage1: unknown key 'lrr'; did you mean 'lr'\?"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    words: list[str], message: str, audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini_bundle, "prepare_data", lambda *_: pytest.fail("the data path began"))
    given = [word.format(tmp_path) for word in words]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = [
        *([] if "--audio" in given else ["--audio", str(audio)]),
        *([] if "--runs" in given else ["--runs", str(tmp_path / "runs")]),
    ]
    with pytest.raises(DuoTokError, match=message):
        make_mini(arguments().parse_args([*words, "--songs", "0", *given]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "runs").exists()


def test_a_mistake_is_one_line_and_help_teaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["mini_bundle", "--audio", str(tmp_path / "none")])
    assert mini_bundle.main() == 1
    assert capsys.readouterr().err.startswith("error: --audio") and capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="2"):
        arguments().parse_args(["--audio", "x", "--parallel", "0"])
    text = arguments().format_help()
    assert "does it run at all?" in text and all(name in text for name in TASKS)


def test_what_is_set_for_a_corpus_reaches_the_data_path(audio: Path, tmp_path: Path) -> None:
    for n in range(4):
        write(audio / f"{n}.wav", 0.1 * torch.randn(2, 48_000 * 6), 48_000)
    for share, split in (("0", "test"), ("1", "validation")):
        told = [f"folder.validation={share}", f"folder.test={1 - int(share)}"]
        store = prepare_data([audio], tmp_path / share, 1, told=told)
        assert {stored.segment.split for stored in store.segments} == {split}


def test_the_card_has_the_whole_command() -> None:
    """It named the first folder of several, and nothing that was set."""
    words = ["--audio", "a b", "--audio", "c", "--runs", "r", "--songs", "4", "--set", "all.seed=2", "--prepared"]
    told = mini_bundle.command_of(arguments().parse_args(words)).split(" ", 3)
    assert told[:3] == ["python", "-m", "duotok.recipes.mini_bundle"]
    assert told[3] == "--audio 'a b' --audio c --runs r --songs 4 --set all.seed=2 --prepared"


def test_interrupted_it_waits_for_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "command", lambda self, name: slow_to_end(tmp_path))
    monkeypatch.setattr(mini_bundle.time, "sleep", ctrl_c_when_it_has_begun(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        runner(runs=tmp_path).run(["samples"])
    assert (tmp_path / "saved").exists()
