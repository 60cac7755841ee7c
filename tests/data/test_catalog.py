"""The catalog: several corpora into one table, and the three commands around it."""

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.corpora.base import NAMES
from duotok.data.catalog import Catalog, build, check, open_corpora, read, summary, write
from duotok.records import CorpusError, Recording


def data(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments])


def trees(root: Path) -> tuple[Path, Path]:
    """Two folders of empty files: the catalog never looks into them."""
    for n in range(30):
        for name in ("rock", "jazz"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f"{n}.wav").touch()
    return root / "rock", root / "jazz"


def test_several_corpora_make_one_sorted_table(tmp_path: Path) -> None:
    rock, jazz = trees(tmp_path)
    corpora = open_corpora(
        [f"folder={rock}", f"b:folder={jazz}"], ["b.licence=CC BY 4.0", "b.kind=instrumental", "b.validation=0.5"]
    )
    made = build(corpora)
    assert len(made.recordings) == 60 and [r.id for r in made.recordings] == sorted(r.id for r in made.recordings)
    assert {r.corpus for r in made.recordings} == {"folder", "b"}
    facts = summary(made)
    assert facts["b"]["licence"] == {"attribution": 30} and facts["folder"]["licence"] == {"unknown": 30}
    assert facts["b"]["kind"] == {"instrumental": 30} and facts["b"]["all"]["no length"] == 30
    assert facts["b"]["split"]["validation"] > facts["folder"]["split"].get("validation", 0)


def test_the_table_is_the_same_bytes_and_reads_back(tmp_path: Path) -> None:
    rock, jazz = trees(tmp_path)
    one = build(open_corpora([f"folder={rock}", f"b:folder={jazz}"]))
    two = build(open_corpora([f"b:folder={jazz}", f"folder={rock}"]))
    first, second = write(tmp_path / "1", one), write(tmp_path / "2", two)
    assert first.read_bytes() == second.read_bytes()
    assert read(tmp_path / "1") == one.recordings
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["recordings.parquet"]
    with pytest.raises(CorpusError, match="run the step that makes it first"):
        read(tmp_path / "3")


def test_licences_are_filtered_and_counted(tmp_path: Path) -> None:
    rock, jazz = trees(tmp_path)
    corpora = open_corpora([f"folder={rock}", f"b:folder={jazz}"], ["b.licence=CC BY-NC 4.0", "folder.licence=CC0"])
    made = build(corpora, ["public-domain", "attribution"])
    assert {r.corpus for r in made.recordings} == {"folder"} and made.left_out == {"non-commercial": 30}
    with pytest.raises(
        CorpusError, match=r"no recordings \(30 non-commercial, 30 public-domain\); allow more licences"
    ):
        build(corpora, ["share-alike"])
    with pytest.raises(CorpusError, match="licence class 'free' is unknown; there are public-domain"):
        build(corpora, ["free"])


def test_adding_replaces_only_corpora_of_the_same_name(tmp_path: Path) -> None:
    rock, jazz = trees(tmp_path)
    before = build(open_corpora([f"folder={rock}", f"b:folder={jazz}"])).recordings
    (jazz / "0.wav").unlink()
    after = build(open_corpora([f"b:folder={jazz}"]), among=before).recordings
    assert {r.id for r in before} - {r.id for r in after} == {"b/0"}


@pytest.mark.parametrize(
    ("corpora", "settings", "problem"),
    [
        (["folder"], [], "write NAME=FOLDER"),
        (["=x"], [], "write NAME=FOLDER"),
        (["foldr=ROCK"], [], "did you mean 'folder'"),
        (["folder=ROCK", "folder=JAZZ"], [], "give one another name: b:folder"),
        (["folder=ROCK"], ["licence=CC0"], "write CORPUS.OPTION=VALUE"),
        (["folder=ROCK"], ["jazz.licence=CC0"], "CORPUS one of folder"),
        (["folder=ROCK"], ["folder.license=CC0"], "no option 'license'; did you mean 'licence'"),
        (["folder=ROCK/gone"], [], "gone: no such folder"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, corpora: list[str], settings: list[str], problem: str) -> None:
    rock, jazz = trees(tmp_path)
    texts = [text.replace("ROCK", str(rock)).replace("JAZZ", str(jazz)) for text in corpora]
    with pytest.raises(CorpusError, match=problem):
        open_corpora(texts, settings)


def item(id: str, **changes: object) -> Recording:
    recording = Recording(id, id.split("/")[0], "music", "train", id, {"mix": f"/{id}.wav"})
    return dataclasses.replace(recording, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([item("a/x"), item("a/x")], "'a/x' and 'a/x' would share"),
        ([item("a/x"), item("a/X")], "'a/x' and 'a/X' would share"),
        ([item("a/x/y"), item("a/x__y")], "would share"),
        ([item("a/x y")], "only letters, digits"),
        ([item("a/../y")], "only letters, digits"),
        ([item("a//y")], "only letters, digits"),
        ([item("a/x", audio={})], "has no audio"),
        ([item("a/x", identity="i"), item("a/y", identity="i", split="test")], "'i' of a is in train and in test"),
        ([item("a/x"), item("b/x", audio={"mix": "/a/x.wav"}, split="test")], "name this folder only once"),
    ],
)
def test_what_breaks_later_steps_is_refused(items: list[Recording], problem: str) -> None:
    with pytest.raises(CorpusError, match=problem):
        check(items)


def test_the_same_artist_in_two_corpora_is_no_conflict(tmp_path: Path) -> None:
    """An identity is known within its corpus: two splits of one name are a conflict in one corpus only."""
    both = [item("a/x", identity="i"), item("b/x", identity="i", split="test")]
    check(both)
    write(tmp_path, Catalog(both))
    assert [(r.corpus, r.split) for r in read(tmp_path)] == [("a", "train"), ("b", "test")]
    with pytest.raises(CorpusError, match="'i' of a is in train and in test"):
        check([both[0], dataclasses.replace(both[1], corpus="a")])


def test_one_folder_under_two_names_is_found(tmp_path: Path) -> None:
    rock, _ = trees(tmp_path)
    with pytest.raises(CorpusError, match="name this folder only once"):
        build(open_corpora([f"folder={rock}", f"b:folder={tmp_path}"], ["b.seed=5", "b.test=0.5"]))


def test_command_catalog(tmp_path: Path) -> None:
    rock, jazz = trees(tmp_path)
    work = tmp_path / "work"
    arguments = ["catalog", "--corpus", f"folder={rock}", "--set", "folder.licence=CC0", "--work", str(work)]
    dry = data(*arguments, "--dry-run", "--json")
    assert dry.exit_code == 0 and not work.exists()
    facts = json.loads(dry.stdout)
    assert facts["written"] is False and facts["corpora"]["folder"]["all"]["recordings"] == 30
    done = data(*arguments)
    assert done.exit_code == 0 and "folder: 30 recordings" in done.stdout and len(read(work)) == 30
    added = data("catalog", "--corpus", f"b:folder={jazz}", "--add", "--work", str(work), "--json")
    assert set(json.loads(added.stdout)["corpora"]) == {"folder", "b"} and len(read(work)) == 60
    wrong = data("catalog", "--corpus", "folder=/no/where", "--work", str(work))
    assert wrong.exit_code == 1 and "error: /no/where: no such folder" in wrong.output and len(read(work)) == 60


def test_commands_list_and_describe() -> None:
    listed = data("list")
    assert listed.exit_code == 0 and all(name in listed.stdout for name in NAMES)
    assert set(NAMES) <= set(json.loads(data("list", "--json").stdout))
    for name in NAMES:
        described = data("describe", name)
        assert described.exit_code == 0 and "What to put where" in described.stdout and "ROOT" in described.stdout
        facts = json.loads(data("describe", name, "--json").stdout)
        assert facts["name"] == name and "seed" in facts["options"]
    wrong = data("describe", "musdb")
    assert wrong.exit_code == 1 and "did you mean 'musdb18hq'" in wrong.output


def test_an_empty_catalog_says_so() -> None:
    with pytest.raises(CorpusError, match="the corpora are empty"):
        build([])
    assert summary(Catalog([])) == {}


def test_what_is_no_recording_is_a_line_in_the_ledger(tmp_path: Path) -> None:
    rock, _ = trees(tmp_path)
    for ending in ("wav", "flac"):
        (rock / f"x.vocals.{ending}").touch()
    result = data("catalog", "--corpus", f"folder={rock}", "--work", str(tmp_path / "work"))
    assert result.exit_code == 0 and "failed: folder/x: vocals is there 2 times" in result.stderr
    (line,) = (tmp_path / "work/ledger/catalog.jsonl").read_text().splitlines()
    assert json.loads(line)["unit"] == "folder/x" and not json.loads(line)["ok"]
    assert len(read(tmp_path / "work")) == 30
    (rock / "x.vocals.wav").unlink()
    assert data("catalog", "--corpus", f"folder={rock}", "--work", str(tmp_path / "work")).exit_code == 0
    assert len(read(tmp_path / "work")) == 31 and not (tmp_path / "work/ledger/catalog.jsonl").exists()


@pytest.mark.parametrize(("songs", "remedy"), [(1, "more songs helps"), (3, "--set folder.validation=0.25")])
def test_a_library_without_validation_is_told(songs: int, remedy: str, tmp_path: Path) -> None:
    for n in range(songs):
        (tmp_path / "music").mkdir(exist_ok=True)
        (tmp_path / "music" / f"{n}.wav").touch()
    arguments = [
        "catalog",
        "--corpus",
        f"folder={tmp_path / 'music'}",
        "--work",
        str(tmp_path / "work"),
        "--set",
        "folder.validation=0",
    ]
    result = data(*arguments)
    assert result.exit_code == 0 and remedy in result.stderr and "without_validation=true" in result.stderr
    result = data(*arguments[:-1], "folder.validation=1", "--set", "folder.test=0")
    assert "falls to validation" not in result.stderr


def test_a_folder_of_the_user_is_no_work(tmp_path: Path) -> None:
    rock, _ = trees(tmp_path)
    made = build(open_corpora([f"folder={rock}"], []))
    (tmp_path / "mine" / "lyrics").mkdir(parents=True)
    with pytest.raises(
        CorpusError, match=r"mine/lyrics: is there, and no work of DuoTok; name a new folder with --work"
    ):
        write(tmp_path / "mine", made)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["lyrics"]
    write(tmp_path / "work", made)
    (tmp_path / "work" / "stems").mkdir()
    write(tmp_path / "work", made)


def test_a_table_that_may_not_be_read_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not that it should be made again, which may take days."""
    path = tmp_path / "recordings.parquet"
    path.touch()

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Failed to open local file")

    monkeypatch.setattr("pyarrow.parquet.read_table", denied)
    with pytest.raises(CorpusError, match=r"recordings\.parquet: cannot be read \(Permission denied\); check its perm"):
        read(tmp_path)
