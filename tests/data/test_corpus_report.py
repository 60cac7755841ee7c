"""The report: its figures are those of the table, the mixtures come out as the paper says, every picture is there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.page_reader import Page

from duotok.data import catalog
from duotok.data.catalog import Catalog
from duotok.data.corpus_figures import failures, gather, mixed, plain_reason, read_segments
from duotok.data.corpus_report import make_report
from duotok.data.segmenting import TABLE
from duotok.records import CorpusError, Recording, Segment, segment_key, write_table

PICTURES = {
    "types.png", "activities.png", "kinds.png", "splits.png", "corpora.png", "languages.png", "licences.png",
    "durations.png", "loudness.png", "words.png", "mixtures.png",
}  # fmt: skip
SUNG, PLAYED = ("mix", "vocals", "accompaniment"), ("mix", "instrumental")


def segment(number: int, **values: Any) -> Segment:
    words = (("la", 0.5, 1.0), ("li", 1.0, 1.5)) if values.get("text") else ()
    fields: dict[str, Any] = {
        "corpus": "c", "kind": "song", "split": "train", "identity": f"artist {number}", "frames": 250 + number % 500,
        "activity": "lyrics" if words else "voice", "types": SUNG, "stems": ("vocals", "accompaniment"), "gain_db": 2.0,
        "loudness": -20.0 - number % 7, "licence": "CC BY 4.0", "words": words, **values,
    }  # fmt: skip
    name = f"c/r{number}"
    return Segment(key=segment_key(name, 0), recording=name, start_frame=0, **fields)


def save(work: Path, segments: list[Segment]) -> Path:
    write_table(work / TABLE, segments, Segment)
    return work


@pytest.fixture
def work(tmp_path: Path) -> Path:
    sung = [segment(n, text="la li", language="zh" if n % 3 else "en") for n in range(40)]
    humming = [segment(n, language="en") for n in range(40, 60)]
    played = [segment(n, types=PLAYED, activity="instrumental") for n in range(60, 90)]
    spoken = [segment(n, kind="speech", types=("other",), licence="odd", corpus="<b>") for n in range(90, 95)]
    held = [segment(95, split="validation"), segment(96, split="test")]
    return save(tmp_path, [*sung, *humming, *played, *spoken, *held])


def test_the_mixtures_come_out_as_in_the_paper(work: Path) -> None:
    report = gather(work, read_segments(work))
    stage2, stage3 = report.mixtures["stage 2, 4:1:1:1, train"], report.mixtures["stage 3, 5:4:1, train"]
    assert (stage2.required, stage2.paper) == (5 / 7, 5 / 7) and (stage3.required, stage3.paper) == (1 / 2, 1 / 2)
    assert stage2.segments == {"mix": 90, "vocals": 60, "accompaniment": 60, "instrumental": 30}
    assert stage2.plain == pytest.approx((4 * 40 / 90 + 40 / 60) / 7) and stage3.plain == pytest.approx(0.5 * 40 / 60)


def test_availability_is_what_drawing_gives(work: Path) -> None:
    """The stated share against so many random items."""
    table, weights = read_segments(work), {"mix": 4, "vocals": 1, "accompaniment": 1, "instrumental": 1}
    rng = np.random.default_rng(0)
    parts = {name: [i for i, joined in enumerate(table["types"]) if name in joined.split(",")] for name in weights}
    heard = 0
    for name in rng.choice([n for n, weight in weights.items() for _ in range(weight)], 20_000):
        heard += name in ("mix", "vocals") and bool(table["known"][rng.choice(parts[name])])
    assert mixed(table, weights).plain == pytest.approx(heard / 20_000, abs=0.015)


def test_a_mixture_without_a_component_cannot_be_drawn(tmp_path: Path) -> None:
    report, page = make_report(save(tmp_path, [segment(n) for n in range(9)]))
    found = report.mixtures["stage 2, 4:1:1:1, train"]
    assert found.plain is None and found.required is None and found.segments["instrumental"] == 0
    assert "instrumental: none" in page.read_text()


def test_the_figures(work: Path) -> None:
    report = gather(work, read_segments(work))
    assert report.segments["all"]["all"] == 97 == sum(report.segments["activity"].values())
    assert report.segments["type"] == {"mix": 92, "vocals": 62, "accompaniment": 62, "instrumental": 30, "other": 5}
    assert report.segments["licence"] == {"attribution": 92, "unknown": 5}
    assert report.segments["language"] == {"not said": 37, "en": 34, "zh": 26}
    assert report.identities == {"train": 95, "validation": 1, "test": 1} and report.shared_identities == 0
    for column in ("activity", "kind", "split", "corpus", "language", "licence"):
        assert sum(report.hours[column].values()) == pytest.approx(report.hours["all"]["all"])


def test_an_identity_in_two_splits_is_shown(tmp_path: Path) -> None:
    pair = [segment(1), dataclasses.replace(segment(2), split="test", identity="artist 1")]
    report, page = make_report(save(tmp_path, pair))
    assert report.shared_identities == 1 and "in more than one split" in page.read_text()


def test_the_page_needs_nothing_but_itself(work: Path) -> None:
    text = make_report(work)[1].read_text(encoding="utf-8")
    page = Page(text)
    pictures = [address for tag, address in page.addresses if tag == "img"]
    assert len(pictures) == len(PICTURES) == len(set(pictures)) and len(page.addresses) == len(PICTURES) + 1
    assert "<th></th>" not in text, "a column without a name"
    said = [fields["alt"] for tag, fields in page.tags if tag == "img"]
    assert "Splits: train 19 min, 95 segments; test 14 s, 1 segment; validation 14 s, 1 segment" in said, "in words too"
    assert page.text.count("Training data") == 2 and "Nothing: the ledgers name no unit that failed." in page.text


def test_names_are_text(work: Path) -> None:
    """Names of corpora and units, and reasons, with all that HTML and templates could take for theirs."""
    (work / "ledger").mkdir()
    unit, error = 'c/<i>"ü" 🎵 {{ 7 * 7 }}</td>', "/data/<x>/a.flac: </table> & <script>alert('it')</script>"
    rows = [{"unit": name, "stamp": "", "ok": False, "error": error} for name in (unit, "c/caf\udce9")]
    (work / "ledger/scan.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(make_report(work)[1].read_text(encoding="utf-8"))
    assert f"scan{error}2{unit}, c/caf\\xe9" in "".join(page.words)
    assert "What the data path made of <b>, c: segments" in page.text
    assert page.count("script") == 1 and page.count("b") == page.count("li") == 5


def test_pictures_and_facts(work: Path, tmp_path: Path) -> None:
    report, page = make_report(work, tmp_path / "elsewhere")
    folder = page.parent
    assert {path.name for path in folder.iterdir()} == {*PICTURES, "index.html", "facts.json"}
    for name in PICTURES:
        data = (folder / name).read_bytes()
        assert data.startswith(b"\x89PNG") and data.rstrip().endswith(b"IEND\xaeB`\x82") and len(data) > 500
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["segments"] == report.segments and facts["mixtures"]["stage 3, 5:4:1, train"]["required"] == 0.5


def test_the_same_table_gives_the_same_files(work: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_report(work, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_failures_are_grouped_by_reason(work: Path) -> None:
    (work / "ledger").mkdir()
    scan = [{"unit": f"c/{n}", "stamp": "", "ok": False, "error": f"/data/{n}.flac: cut off at {n}.5 s; get it again"}
            for n in range(8)]  # fmt: skip
    scan.append({"unit": "c/0", "stamp": "", "ok": True, "result": {}})  # repaired since
    cut = [{"unit": "c/1", "stamp": "", "ok": False, "error": "scan: /data/1.flac: cut off"},
           {"unit": "c/9", "stamp": "", "ok": False, "error": "shorter than 5 s"}]  # fmt: skip
    for step, rows in (("scan", scan), ("segment", cut)):
        (work / f"ledger/{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = failures(work)
    assert [(f.step, f.count, len(f.units)) for f in found] == [("scan", 7, 5), ("segment", 1, 1)]
    assert found[0].reason == "…: cut off at # s; get it again"
    assert found[1].reason == "shorter than 5 s"
    # Removed from the corpus since: the ledger still has them.
    catalog.write(work, Catalog([Recording("c/1", "c", "song", "train", "a", {"mix": "1.flac"})]))
    assert [(f.step, f.units) for f in failures(work)] == [("scan", ("c/1",)), ("segment", ("c/9",))]


@pytest.mark.parametrize(
    ("error", "plain"),
    [
        ("C:\\my music\\a.wav: 12 samples (/x/y) and/or less", "…: # samples (…) and/or less"),
        ("s3://b/a.flac: cannot be read", "…: cannot be read"),
        ("stems/a.flac, stems/b.flac: 3.10 s long", "…: # s long"),
        ("it is /data/my.wav; see docs/segments.md: there", "it is …; see …: there"),
        ("shorter than 5 s", "shorter than # s"),
    ],
)
def test_reasons_without_what_is_the_units_own(error: str, plain: str) -> None:
    assert plain_reason(error) == plain


def test_recordings_and_shards_are_counted(work: Path) -> None:
    items = [Recording(f"c/r{n}", "c", "song", "train", f"artist {n}", {"mix": f"{n}.wav"}) for n in range(120)]
    catalog.write(work, Catalog(items))
    (work / "shards").mkdir()
    (work / "shards/train-000000.tar").write_bytes(bytes(1000))
    report, page = make_report(work)
    assert (report.recordings, report.used, report.shards) == (120, 97, {"files": 1, "bytes": 1000})
    assert "97 of 120" in page.read_text()


def test_no_segments(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="duotok data segment"):
        make_report(tmp_path)
    with pytest.raises(CorpusError, match="no segments"):
        make_report(save(tmp_path, []))
    (tmp_path / TABLE).write_bytes(b"not a table")
    with pytest.raises(CorpusError, match="cannot be read"):
        make_report(tmp_path)


def test_the_command(work: Path) -> None:
    import typer
    from typer.testing import CliRunner

    from duotok.cli.data.report import report

    app = typer.Typer()
    app.command()(report)
    run = CliRunner().invoke(app, ["--work", str(work), "--json"])
    assert run.exit_code == 0 and json.loads(run.stdout)["page"] == str(work / "report/index.html")
    assert "71.4%" in CliRunner().invoke(app, ["--work", str(work)]).output


def test_only_a_report_is_replaced(work: Path, tmp_path: Path) -> None:
    place = tmp_path / "site"
    place.mkdir()
    (place / "index.html").write_text("my page")
    with pytest.raises(CorpusError, match=r"index.html: is there already, and no report"):
        make_report(work, place)
    assert [path.name for path in place.iterdir()] == ["index.html"]
    make_report(work, place, force=True)
    make_report(work, place)  # its own
    assert "my page" not in (place / "index.html").read_text()
