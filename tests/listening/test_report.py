"""The report, the export, and the commands from folders to tables."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from tests.listening import simulated
from tests.listening.ask import plan_of
from tests.listening.test_analysis import TRUTH
from tests.page_reader import Page
from typer.testing import CliRunner, Result

from duotok.cli.main import app
from duotok.listening.analysis import analyse
from duotok.listening.pictures import figure_of
from duotok.listening.plan import REFERENCE, ListeningTest, load
from duotok.listening.ratings import Ratings
from duotok.listening.report import as_json, as_markdown, made_before, outputs, write
from duotok.listening.scale import Method, word_of
from duotok.listening.webmushra import config


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["listen", *map(str, words)])


def test_the_files_agree_and_nothing_is_blank(tmp_path: Path) -> None:
    test = plan_of(songs=6, title="A <b>title</b> | with a bar")
    found = analyse(test, simulated.ratings(test, TRUTH["mos"], 7, clickers=1, seed=2))
    write(found, tmp_path, "0")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in outputs(tmp_path)}
    facts = json.loads((tmp_path / "report.json").read_text())
    good = facts["screened"]["means"]["vocals"]["good"]
    text = f"{good['value']:.2f} [{good['low']:.2f}, {good['high']:.2f}]"
    page = Page((tmp_path / "index.html").read_text())
    markdown = (tmp_path / "report.md").read_text()
    assert text in page.text and text in markdown
    assert "rater 8" in page.text and facts["excluded"].keys() == {"8"} and "rater 8: " in markdown
    assert page.count("img") == 3 and all(data.startswith(b"\x89PNG") for data in page.data("img"))
    assert "A <b>title</b>" in page.text, "as text"
    assert not re.search(r"\|[ \t]*\|", markdown) and "nan" not in (markdown + page.text).lower()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "ratings.csv").read_text())))
    assert len(rows) == 8 * 48 and sum(row["excluded"] == "yes" for row in rows) == 48
    kept = [
        float(r["score"]) for r in rows if r["excluded"] == "no" and (r["track"], r["condition"]) == ("vocals", "good")
    ]
    assert sum(kept) / len(kept) == pytest.approx(good["value"])
    means = list(csv.DictReader(io.StringIO((tmp_path / "means.csv").read_text())))
    assert len(means) == 2 * 3 * 4 and all(value for row in means for value in row.values())
    assert facts["test"]["seal"] == test.identity and facts["test"]["seed"] == 3


@pytest.mark.parametrize(
    ("raters", "told"),
    [
        (2, "\nNo interval: 2 raters, of 6 at least.\n"),
        (7, "\nIn brackets: 95% intervals, over raters, for these 3 songs alone.\n"),
    ],
)
def test_small_studies_say_what_they_cannot(raters: int, told: str) -> None:
    test = plan_of(songs=3, method="mushra")
    found = analyse(test, simulated.ratings(test, TRUTH["mushra"], raters, noise=0.1))
    assert told in as_markdown(found)
    json.dumps(as_json(found, "0"), allow_nan=False)


def test_when_everyone_is_excluded_there_is_still_a_report(tmp_path: Path) -> None:
    test = plan_of(songs=2, tracks=("mix",))
    found = analyse(test, simulated.ratings(test, dict.fromkeys(test.conditions, 3.0), 3, noise=0.1))
    assert len(found.excluded) == 3
    write(found, tmp_path, "0")
    screened, everyone = (tmp_path / "report.md").read_text().split("Of all raters")
    assert "none counts" in screened and "not rated" not in screened + everyone, "they did rate"
    page = Page((tmp_path / "index.html").read_text())
    assert page.count("img") == 0 and "Nobody counts, so there is nothing to draw" in page.text


def test_a_long_name_leaves_room_for_the_scores() -> None:
    name = "a-very-long-name-without-blanks-that-somebody-gave-to-the-system-of-theirs"
    test = plan_of(songs=6, systems=(name, "averylongname" * 6, "_h"))
    found = analyse(
        test, simulated.ratings(test, dict.fromkeys(test.conditions, 4.0) | {"lowpass-3500": 1.0}, 7, noise=0.1)
    )
    figure = figure_of(found, "mix")
    figure.draw_without_rendering()
    (axis,) = figure.axes
    assert axis.get_window_extent().width > 0.55 * figure.bbox.width
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert (
        labels[0] == "hidden reference"
        and labels[1].replace("\n", "").startswith("a-very-long-name")
        and labels[3] == "_h"
    )


def test_a_report_replaces_only_reports(tmp_path: Path) -> None:
    test = plan_of(songs=2, tracks=("mix",))
    write(analyse(test, simulated.ratings(test, TRUTH["mos"], 2)), tmp_path, "0")
    mine = made_before(tmp_path)
    assert all(mine(path) for path in outputs(tmp_path))
    (tmp_path / "report.md").write_text("mine")
    assert [path.name for path in outputs(tmp_path) if not made_before(tmp_path)(path)] == ["report.md"]


def test_words_of_scores() -> None:
    assert [word_of(score) for score in (0, 19, 20, 50, 79, 80, 100)] == [
        "Bad",
        "Bad",
        "Poor",
        "Fair",
        "Good",
        "Excellent",
        "Excellent",
    ]


def test_the_commands_from_folders_to_tables(folders: tuple[Path, Path], tmp_path: Path) -> None:
    originals, decoded = folders
    words = [
        originals,
        "-o",
        tmp_path / "t",
        "--system",
        f"ours={decoded}",
        "--seconds",
        0.5,
        "--anchor",
        3500,
        "--anchor",
        7000,
    ]
    dry = run("build", *words, "--dry-run")
    assert (
        dry.exit_code == 0
        and "2 songs, 3 clips in 4 conditions: 12 sounds" in dry.output
        and not (tmp_path / "t").exists()
    )
    assert run("build", *words).exit_code == 0
    test = load(tmp_path / "t")
    assert test.plan.anchors == {"lowpass-3500": 3500.0, "lowpass-7000": 7000.0} and len(test.plan.sounds) == 12
    none = run("report", tmp_path / "t", "-o", tmp_path / "r")
    assert none.exit_code == 1 and "no ratings yet" in none.output
    ratings = Ratings(test, create=True)
    none = run("report", tmp_path / "t", "-o", tmp_path / "r")
    assert none.exit_code == 1 and "nobody has rated" in none.output
    given = simulated.ratings(test, {REFERENCE: 5, "ours": 3, "lowpass-3500": 1, "lowpass-7000": 2}, 2, noise=0.01)
    for rater in (1, 2):
        ratings.new_rater()
        ratings.save(rater, {one.sound: one.score for one in given if one.rater == rater})
    done = run("report", tmp_path / "t", "-o", tmp_path / "r", "--json")
    facts = json.loads(done.stdout)
    assert done.exit_code == 0 and facts["screened"]["means"]["mix"]["ours"]["value"] == 3.0
    for option, value in (("--reference-least", "nan"), ("--reference-least", "90"), ("--anchor-gap", "nan")):
        wrong = run("report", tmp_path / "t", "-o", tmp_path / "r", option, value)
        assert wrong.exit_code == 1 and f"{option} {value}: scores of this test" in wrong.output
    again = run("build", *words)
    assert again.exit_code == 1 and "never replaced" in again.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build", "NO", "-o", "OUT", "--opus", "6"], "no such folder"),
        (["build", "ORIGINALS", "-o", "OUT"], "no system to rate"),
        (["build", "ORIGINALS", "-o", "OUT", "--system", "x"], "write NAME=FOLDER"),
        (["build", "ORIGINALS", "-o", "OUT", "--method", "abx", "--opus", "6"], "choose mos or mushra"),
        (["build", "ORIGINALS", "-o", "OUT", "--tokenizer", "NO", "--tokenizer", "NO"], "the name is taken"),
        (["build", "ORIGINALS", "-o", "OUT", "--tokenizer", "NO"], "NO"),
        (["serve", "NO"], "no listening test"),
        (["export", "BUILT", "-o", "OUT", "--name", "../x"], "take letters"),
    ],
)
def test_bad_words(words: list[str], told: str, folders: tuple[Path, Path], built: Path, tmp_path: Path) -> None:
    places = {"NO": tmp_path / "no", "OUT": tmp_path / "out", "ORIGINALS": folders[0], "BUILT": built}
    done = run(*(places.get(word, word) for word in words))
    assert done.exit_code == 1 and told in done.output and len(done.output.strip().splitlines()) == 1, done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["mos", "mushra"])
def test_webmushra_gets_every_sound_and_no_name(method: Method, tested: ListeningTest, tmp_path: Path) -> None:
    tested.plan = tested.plan.model_copy(update={"method": method})
    settings = config(tested, "study")
    order, pages = settings["pages"][1][0], settings["pages"][1][1:]
    assert order == "random" and len(pages) == (9 if method == "mos" else 3)
    assert {page["type"] for page in pages} == {"likert_single_stimulus" if method == "mos" else "mushra"}
    heard = [
        path
        for page in pages
        for path in (*page["stimuli"].values(), *([page["reference"]] if "reference" in page else []))
    ]
    assert sorted(heard) == sorted(f"configs/resources/study/{name}.wav" for name in tested.sounds)
    if method == "mushra":
        of = {page["id"][1:]: tested.sounds[Path(page["reference"]).stem] for page in pages}
        assert all(sound.system == REFERENCE and sound.clip == clip for clip, sound in of.items())
        assert all(len(page["stimuli"]) == 2 for page in pages), "webMUSHRA adds the hidden reference itself"
    else:
        assert [answer["value"] for answer in pages[0]["response"]] == [5, 4, 3, 2, 1]


def test_export_is_whole(built: Path, tmp_path: Path) -> None:
    done = run("export", built, "-o", tmp_path / "web", "--name", "study")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "web" / "configs" / "study.yaml").read_text()
    settings = yaml.safe_load(text)
    assert settings == config(load(built), "study")
    lines = text.splitlines()
    assert all(re.match(r" *(- *)?([\w]+:|random|-$|$)|  -$", line) for line in lines) and "- -" not in text, (
        "webMUSHRA's reader takes neither folded lines nor a list that begins beside another's dash"
    )
    named = re.findall(r"configs/resources/study/\w+\.wav", text)
    assert len(set(named)) == 10 and all((tmp_path / "web" / name).is_file() for name in named)
    assert settings["testname"] == "A &lt;test&gt;" and not re.search(r"ours|lowpass|vocals", text)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "web" / "key.csv").read_text())))
    assert {row["condition"] for row in rows} == {REFERENCE, "ours", "lowpass-3500"} and len(rows) == 9
    assert run("export", built, "-o", tmp_path / "web").exit_code == 1, "what is there stays"
