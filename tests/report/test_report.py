"""The report: every number is a measured one or the paper's, what is missing is named, nothing comes from elsewhere."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.report.stores import DATA, FACTS, HASH, MEL, cell, fill, listening, study, usage
from typer.testing import CliRunner

from duotok.audio.io import write as write_sound
from duotok.audio.loudness import integrated_loudness
from duotok.cli.main import app
from duotok.comparison.study import Result
from duotok.evaluation.intervals import Interval
from duotok.evaluation.results import Cell, Inputs, Measure, Row
from duotok.evaluation.store import files_of, write_cell
from duotok.evaluation.summaries import summarise
from duotok.report import figures
from duotok.report import players as hearing
from duotok.report.content import PAPER, Picture, Table, gaps_of, without_folders
from duotok.report.details import instruments, provenance
from duotok.report.drawing import Bar, bars
from duotok.report.page import MARK, Report, as_html, made_before, make, write
from duotok.report.paper import paper
from duotok.report.predictability import table_5
from duotok.report.sources import Sources, gather
from duotok.report.studies import ReportError, of_cells, read_table
from duotok.report.tables import definitions
from duotok.seals import seal, unsealed
from duotok.suite.runner import write_gap
from duotok.suite.units import ORIGINAL
from duotok.tracks import TRACKS

NUMBER = re.compile(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?")
EVIL = "<script>alert('x')</script> | *b* `c`"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    root = tmp_path_factory.mktemp("report")
    fill(root / "store")
    study(root / "study")
    listening(root / "listening")
    return root / "store", root / "study", root / "listening"


@pytest.fixture(scope="module")
def sources(folders: tuple[Path, Path, Path]) -> Sources:
    return gather(folders)


@pytest.fixture(scope="module")
def report(sources: Sources) -> Report:
    return make(sources, "duotok report store -o report.html")


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return as_html(report)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are not drawn where nobody looks at them: they take most of the time."""
    for name in ("plane", "curves", "bars"):
        monkeypatch.setattr(figures, name, lambda *_, **__: b"<svg/>")


def tables_of(report: Report) -> dict[str, Table]:
    return {part.key: part for part in report.parts if isinstance(part, Table)}


def cells_of(page: str) -> Iterator[str]:
    """The texts of all data cells of a page."""
    for text in re.findall(r"<td>(.*?)</td>", page, re.DOTALL):
        yield html.unescape(re.sub(r"<[^>]+>", "", text))


def known(sources: Sources, result: Result) -> set[float]:
    """Every number that may stand in a cell, rounded as it stands there."""
    values: set[float] = set()
    for summary in (s for name in sources.instruments for s in summarise(sources.of(name))):
        ends = [summary.mean, *((summary.interval.low, summary.interval.high) if summary.interval else ())]
        values |= {round(v, digits) for v in ends if v is not None for digits in (3, 4)}
        values |= {summary.n, summary.n + summary.failures}
    intervals = [
        *(i for of in result.values.values() for figures in of.values() for i in figures.values()),
        *(cost.percent for of in result.costs.values() for costs in of.values() for cost in costs),
        *(i for of in result.contexts.values() for points in of.values() for p in points for i in (p.cnbpt, p.gain)),
    ]
    values |= {round(end, digits) for i in intervals for end in (i.value, i.low, i.high) for digits in (1, 3)}
    for streams in result.books.values():
        for (book,) in streams.values():
            numbers = (book.utilization, book.normalized(), *book.uniform())
            values |= {*(round(v, 4) for v in numbers), book.tokens}
    values |= {float(v) for of in paper().values() for row in of.rows for v in row if NUMBER.fullmatch(v)}
    values |= {round(v, 3) for cell in sources.cells for t in cell.about.get("figures", {}).values() for v in t}
    values |= {
        v for mean in sources.listening[0].scores["vocals"].values() for v in mean.values() if isinstance(v, float)
    }
    values |= {round(v + by, 2) for v in (4.71, 3.28) for by in (-0.2, 0.25)} | {80, 10}
    return values | {0, 25, 50, 512, 0.45, 0.23, 9000, 5, 10, 20}  # of the interface, and seconds of context


def test_every_number_is_measured_or_the_papers(sources: Sources, report: Report, page: str, tmp_path: Path) -> None:
    result = study(tmp_path / "again")
    may = known(sources, result)
    deviations = {row.cells[2] for row in tables_of(report)["table-9"].ours}
    tables = page[page.index('id="table-1"') : page.index('id="origin"')]
    strange = {
        number
        for text in cells_of(tables)
        if text not in deviations
        for number in NUMBER.findall(text)
        if not any(abs(float(number.replace(",", "")) - v) < 1e-9 for v in may)
    }
    assert strange == set()
    assert sum(len(NUMBER.findall(text)) for text in cells_of(tables)) > 600


def test_ours_and_the_papers_are_told_apart(report: Report, page: str) -> None:
    found = tables_of(report)
    assert list(found) == [f"table-{n}" for n in ("1", "2", "3", "4a", "4b", "5", "6", "9", "10", "11")]
    for key, table in found.items():
        assert len(table.papers) == len(paper()[key].rows) and table.compare and table.ours and not table.missing
        assert all(len(row.cells) == len(table.head) - 1 and all(row.cells) for row in table.rows), key
    assert page.count("not measured here and not comparable with the rows above") == len(found) + 1  # and of figure 3
    body = page[page.index('<tbody class="paper">') :]
    assert "DAC" in body[: body.index("</tbody>")] and "ours" not in body[: body.index("</tbody>")]
    assert all(len(set(t.head)) > 1 for t in found.values())


def test_values_stand_in_their_places(sources: Sources, report: Report, folders: tuple[Path, Path, Path]) -> None:
    """One cell of each kind, followed from its file into its table."""
    found, result = tables_of(report), read_table(folders[1])
    mel = next(
        s
        for s in summarise(sources.of("reconstruction"))
        if (s.tokenizer, s.measure.name, s.track) == ("theirs", "mel", "mix")
    )
    head = found["table-1"].head
    row = next(r for r in found["table-1"].ours if r.name == "theirs")
    at = dict(zip(head, (row.name, *row.cells), strict=True))
    assert at["mel at 24 kHz"] == f"{mel} (6 of 7)" and at["tagging AP"] == "0.417 [0.391, 0.443]"
    assert at["cnBPT"] == format(result.values["parallel"]["theirs"]["average.cnbpt"]) and at["kbit/s"] == "0.45"
    assert "theirs, mix, mel, mel_own_rate: the vocals are silent (of song3)" in found["table-1"].gaps
    given = next(r for r in found["table-3"].ours if r.name == "ours")
    assert given.cells[0] == "vocals-to-accompaniment"
    assert given.cells[4] == format(result.values["vocals-to-accompaniment"]["ours"]["average.cnbpt"])
    assert ("vocals", "3.28 [3.08, 3.53]", "80 by 10") in [row.cells for row in found["table-4b"].ours]
    assert "Our decoders learned for 100 steps a track." in found["table-4a"].about
    used = next(r for r in found["table-11"].ours if r.cells[-1] == "usage" and r.cells[0] == "vocals")
    assert used.cells[1:6] == ("0.8710", "0.9360", "0.8120", "0.9810", "9,000")


def test_what_is_missing_is_named_with_its_command(tmp_path: Path, undrawn: None) -> None:
    write_cell(tmp_path, cell("ours", "reconstruction", [MEL], [*TRACKS, "mix"]))
    report = make(gather([tmp_path]), "")
    missing = dict(report.missing)
    assert len(missing) == 12, "all but Tables 6 and 9"
    for title, command in (
        ("Table 2", "duotok eval lm"), ("Table 4 (a)", "duotok eval matched-decoder"), ("Table 4 (b)", "duotok listen"),
        ("Table 1:", "duotok eval tagging"), ("Table 11", "duotok eval all"), ("Figure 4", "duotok eval lm"),
    ):  # fmt: skip
        assert [command in text for name, text in missing.items() if name.startswith(title)] == [True], title
    text = as_html(report)
    assert "Missing." in text and "Measured here: nothing yet" in text and "ours" in text
    assert "Table 9" not in "".join(missing)


def test_the_page_needs_nothing_else_and_markdown_says_the_same(report: Report, page: str, tmp_path: Path) -> None:
    addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
    assert addresses and all(a.startswith(("data:", "#")) for a in addresses)
    assert "url(" not in page and "@import" not in page and "fetch(" not in page
    write(report, [tmp_path / "r.html", tmp_path / "r.md"])
    text = (tmp_path / "r.md").read_text()
    plain, shown = text.replace("\\", ""), html.unescape(page)
    for table in (*(p for p in report.parts if isinstance(p, Table)), *report.instruments, *report.provenance):
        for row in table.rows:
            whose = [row.whose] if table.papers else []
            assert f"| {' | '.join([row.name, *whose, *row.cells])} |" in plain, (table.key, row.name)
            assert all(c.partition(" [")[0].strip("`") in shown for c in row.cells)
    assert made_before(tmp_path / "r.md") and made_before(tmp_path / "r.html") and MARK in page
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels)), "no level is skipped"
    assert page.count("<table>") == page.count("<caption") and 'scope="row"' in page and 'scope="col"' in page
    assert "<th>" not in page and all(alt for alt in re.findall(r'alt="([^"]*)"', page))


def test_names_are_text_and_nothing_else(tmp_path: Path, undrawn: None) -> None:
    bad = cell(EVIL, "reconstruction", [replace(MEL, definition=EVIL)], ["mix"], failing={"song1": EVIL})
    write_cell(tmp_path, bad)
    report = make(gather([tmp_path]), EVIL)
    write(report, [tmp_path / "r.html", tmp_path / "r.md"])
    text = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and text.count("<script>") == 2
    lines = [line for line in (tmp_path / "r.md").read_text().splitlines() if "alert" in line]
    rows = [re.sub(r"\\\|", "", line) for line in lines if line.startswith("|")]
    assert lines and all(
        "<script>" not in line.replace("\\<", "") for line in lines if "`" not in line.replace("\\`", "")
    )
    assert {row.count("|") for row in rows if "measured" in row} <= {7, 8, 11, 12}, "a bar in a name makes no cell"


def test_stores_that_do_not_fit_are_named_and_the_rest_arrives(tmp_path: Path, undrawn: None) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    fill(one)
    write_cell(two, cell("ours", "reconstruction", [MEL], ["mix"], model="88" * 32))
    write_cell(two, cell("third", "reconstruction", [MEL], ["mix"], data="33" * 32))
    study(tmp_path / "study", digest="55" * 32)
    for name in ("usage", "tagging.conformer"):
        path = files_of(one, "theirs", name)[1]
        values = json.loads(path.read_text())
        path.write_text(
            json.dumps(seal({**unsealed(values), "format": 2}) if name == "usage" else {**values, "seed": 9})
        )
    (tmp_path / "broken").mkdir()
    whole = (tmp_path / "study" / "table.json").read_text()
    (tmp_path / "broken" / "table.json").write_text(whole.replace("0.5", "0.6", 1))
    assert whole != (tmp_path / "broken" / "table.json").read_text()
    found = gather([one, two, tmp_path / "study", tmp_path / "broken", tmp_path / "nowhere"])
    told = "\n".join(found.problems)
    for part in (
        "reconstruction of ours: ", "two models: ", "the newer one", "measured on other data than", "store format 2",
        "not as it was written", "broken/table.json: no table of `duotok eval lm`", "nowhere: no such folder",
        "ours: two models by one name", "55555555 in the study study",
    ):  # fmt: skip
        assert part in told, f"{part} not in\n{told}"
    assert {c.inputs.instrument for c in found.cells} >= {"reconstruction", "matched-decoder", "usage"}
    assert found.studies and "two models by one name" in as_html(make(found, ""))
    with pytest.raises(ReportError, match=r"broken/table\.json"):
        gather([tmp_path / "broken"])


def test_settings_of_the_tokenizer_keep_no_one_out(tmp_path: Path) -> None:
    for name, lm in (("ours", "lm"), ("theirs", "")):
        write_cell(tmp_path, cell(name, "leakage", [MEL], ["mix"], config={"seconds": 4.0, "lm": lm}))
        write_cell(tmp_path, cell(name, "stability", [MEL], ["mix"], config={"cases": [lm]}))
    found = gather([tmp_path])
    assert [len(found.of(name)) for name in ("leakage", "stability")] == [2, 1]


def test_table_1_says_whose_predictability_compares_with_whose(tmp_path: Path, undrawn: None) -> None:
    def notes(*folders: Path) -> str:
        return " ".join(tables_of(make(gather(folders), ""))["table-1"].about)

    study(tmp_path / "one", ["ours", "theirs"])
    study(tmp_path / "two", ["third"])
    assert "(study one: ours, theirs; study two: third)" in notes(tmp_path / "one", tmp_path / "two")
    assert "within a study" not in notes(tmp_path / "one")


def test_studies_in_folders_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one" / "comparison", tmp_path / "two" / "comparison"
    study(one, ["ours"])
    study(two, ["ours"])
    found = gather([one, two, one, tmp_path / "two" / "." / "comparison"])
    assert [of.name for of in found.studies] == ["comparison", "two/comparison"]
    assert {row.name for row in provenance(found)[1].rows} == {"study comparison", "study two/comparison"}
    monkeypatch.chdir(one)
    assert gather([Path()]).studies[0].name == "comparison"
    study(tmp_path / "store" / "lm", ["ours"])
    assert gather([tmp_path / "store" / "lm"]).studies[0].name == "store/lm", "not taken for the cells of a store"


def test_of_folders_of_a_machine_a_page_tells_only_the_name(tmp_path: Path, undrawn: None) -> None:
    settings = {"lm": "/home/me/secret/tokens", "of": [{"list": ["/home/me/secret/a.wav"]}], "seconds": 4.0}
    write_cell(tmp_path, cell("ours", "leakage", [MEL], ["mix"], config=settings))
    table = make(gather([tmp_path]), "").provenance[-1]
    assert json.loads(str(table.rows[0].cells[1]).strip("`")) == {
        "lm": "tokens",
        "of": [{"list": ["a.wav"]}],
        "seconds": 4.0,
    }


def test_leakage_is_a_figure_of_its_own_where_it_was_measured(tmp_path: Path, undrawn: None, report: Report) -> None:
    measures = [Measure(f"{figure}.leak{level}", "as named") for figure in ("equal", "mel") for level in (-40, -10)]
    write_cell(tmp_path, cell("ours", "leakage", [*measures, Measure("equal.mini", "separated")], TRACKS))
    sources = gather([tmp_path])
    (picture,) = [part for part in make(sources, "").parts if part.key == "leakage"]
    assert isinstance(picture, Picture) and len(picture.panels) == 4
    means = sources.found("leakage")
    first, last = (means["ours", f"equal.leak{level}", "vocals"].mean for level in (-40, -10))
    assert picture.panels[0].alt == f"ours: {first:.3g}  at -40, {last:.3g} at -10"
    assert "leakage" not in [part.key for part in report.parts]


def test_codes_of_several_codebooks_are_shown_and_not_called_unmeasured(tmp_path: Path) -> None:
    one = usage("ours")
    books = tuple(replace(row, track=f"{row.track}.{k}") for row in one.rows for k in range(2))
    write_cell(tmp_path, one)
    write_cell(tmp_path, replace(one, inputs=replace(one.inputs, tokenizer="dac"), rows=books))
    (table,) = instruments(gather([tmp_path]))
    found = {(row.name, row.cells[0]): row.cells[1:] for row in table.rows}
    assert table.head[-2:] == ("dac", "ours")
    assert found["utilization", "vocals.1"] == ("all together", "0.871", "one codebook")
    assert found["utilization", "vocals"] == ("all together", "by codebook", "0.871")
    assert "Of all songs together, so there is no interval." in table.about


def test_table_5_shows_the_accompaniment_given_the_vocals_and_nothing_else(tmp_path: Path) -> None:
    study(tmp_path, ["ours"])
    found = read_table(tmp_path)
    other = {"parallel": found.values["parallel"], "accompaniment-to-vocals": found.values["vocals-to-accompaniment"]}
    for values, told in ((found.values, False), (other, True)):
        (row,) = table_5(Sources(studies=(replace(found, values=values),))).ours
        assert (row.cells[-3:] == ("not measured",) * 3) is told


def test_scores_of_listeners_that_were_changed_are_refused(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    text = (folders[2] / "report.json").read_text()
    (tmp_path / "report.json").write_text(text.replace("3.28", "4.28"))
    with pytest.raises(
        ReportError, match=r"report\.json: no result of `duotok listen report`, or damaged; make it again"
    ):
        gather([tmp_path])
    (tmp_path / "report.json").write_text(text)
    assert gather([tmp_path]).listening[0].scores["vocals"]["ours"]["value"] == 3.28


def test_an_anchor_has_no_tokens(tmp_path: Path, undrawn: None) -> None:
    facts = {"anchor": True, "data": DATA}
    write_cell(tmp_path, cell("opus", "reconstruction", [MEL], ["mix"], about=facts))
    (row,) = tables_of(make(gather([tmp_path]), ""))["table-1"].ours
    assert row.cells[:6] == ("no tokens", "no tokens", "no tokens", "no tokens", "no tokens", "no tokens")
    write_cell(tmp_path, cell("opus", "reconstruction", [MEL], ["mix"], about={**facts, "kbps": 6.37}))
    (row,) = tables_of(make(gather([tmp_path]), ""))["table-1"].ours
    assert row.cells[2] == "6.37 a track"


def test_a_definition_is_of_the_tokenizer_that_it_says(tmp_path: Path, undrawn: None) -> None:
    """The control without a tokenizer came last, and what it is stood for all."""
    of_codes, of_mel = Measure("ap", "probe on codes", better="higher"), Measure("ap", "probe on log-mel, no tokenizer")
    cells = [
        cell(name, "tagging.linear", [m], ["all"]) for name, m in (("a", of_codes), ("b", of_codes), ("mel", of_mel))
    ]
    assert definitions(cells, ["ap"]) == {
        "ap": "a, b: probe on codes; higher is better; mel: probe on log-mel, no tokenizer"
    }
    assert definitions(cells[:2], ["ap"]) == {"ap": "probe on codes; higher is better"}
    for name, measure in (("a", of_codes), ("mel", of_mel)):
        about = {"figures": {"ap": [0.5, 0.4, 0.6]}, "data": "tags"}
        write_cell(tmp_path, cell(name, "tagging.linear", [measure], ["all"], about=about))
    (table,) = (part for part in make(gather([tmp_path]), "").instruments if part.key == "store-tagging.linear")
    assert table.definitions["ap"].startswith("a: probe on codes")


def test_a_song_that_no_tokenizer_heard_is_told_once(tmp_path: Path) -> None:
    """And not for every tokenizer, track and measure; what one tokenizer alone failed at is told for that one."""
    about = {"data": {"left_out": {"tiny": "too short"}}}
    gaps = (Row("mel", "mix", "tiny", None, "too short"), Row("mel", "vocals", "tiny", None, "too short"))
    own = Row("mel", "mix", "song", None, "too short")
    cells = [
        Cell(Inputs(name, "reconstruction", HASH, DATA, {}), (MEL,), (*gaps, *more), 0, {}, about)
        for name, more in (("one", ()), ("two", (own,)))
    ]
    assert gaps_of(summarise(cells), cells) == (
        "all tokenizers: too short (of tiny)",
        "two, mix, mel: too short (of song)",
    )


def test_an_experiment_names_its_data_by_a_word(tmp_path: Path, undrawn: None) -> None:
    """As `duotok eval leakage` does: its cells have no songs that were left out, and are in the report."""
    made = cell("ours", "leakage", [Measure("equal.true", "separated")], TRACKS)
    write_cell(tmp_path, replace(made, about={**made.about, "data": "index"}))
    (table,) = instruments(gather([tmp_path]))
    assert table.key == "store-leakage" and table.rows and not table.gaps


def test_folders_of_this_machine_are_left_out_of_reasons() -> None:
    said = without_folders(
        "/work/tmp/bad/nan.wav: NaN at 0.5 s; see docs/audio.md, '/a/b/x y.wav' and https://a.org/b/c, 4/4"
    )
    assert said == "nan.wav: NaN at 0.5 s; see docs/audio.md, 'x y.wav' and https://a.org/b/c, 4/4"


def test_gaps_of_experiments_are_reasons_and_keep_no_one_out(tmp_path: Path, undrawn: None) -> None:
    fill(tmp_path, ["ours"])
    for instrument, measure in (("tagging.conformer", "ap"), ("matched-decoder", "mel"), ("leakage", "equal.true")):
        inputs = Inputs("opus", instrument, "12" * 32, "33" * 32)
        write_gap(tmp_path, inputs, [Measure(measure, "what it is")], f"opus: no {instrument}")
    made = make(gather([tmp_path]), "")
    assert not [line for line in made.problems if "measured on other" in line], "a gap says nothing of which data count"
    parts = {part.key: part for part in (*made.parts, *made.instruments)}
    for key, instrument in (
        ("table-1", "tagging.conformer"), ("table-4a", "matched-decoder"), ("store-leakage", "leakage"),
        ("store-tagging.conformer", "tagging.conformer"), ("store-matched-decoder", "matched-decoder"),
    ):  # fmt: skip
        part = parts[key]
        assert isinstance(part, Table) and f"opus, {instrument}: opus: no {instrument}" in part.gaps, key
    assert [row.name for row in parts["table-4a"].ours] == ["ours", "ours"]  # type: ignore[union-attr]
    again = write_gap(tmp_path, Inputs("ours", "tagging.conformer", HASH["ours"], "33" * 32), [MEL], "no tags here")
    assert not again.gap and again.about["figures"], "what was measured stays"


def test_a_gap_of_one_store_does_not_hide_what_another_has_measured(tmp_path: Path) -> None:
    done = cell("dac", "matched-decoder", [MEL], TRACKS)
    write_cell(tmp_path / "a", done)
    write_gap(tmp_path / "b", replace(done.inputs, data_hash="33" * 32), done.measures, "no true stems here")
    for text in ("2020-01-01", "2030-01-01"):  # older, and newer
        path = files_of(tmp_path / "a", "dac", "matched-decoder")[1]
        path.write_text(json.dumps(seal({**unsealed(json.loads(path.read_text())), "created": text})))
        found = gather([tmp_path / "a", tmp_path / "b"])
        assert [one.gap for one in found.cells] == [""] and found.problems == ()


def test_pseudo_labels_are_called_so(report: Report) -> None:
    tables = {part.key: part for part in (*report.parts, *report.instruments)}
    assert "PSEUDO-LABELS" in " ".join(tables["table-1"].about)
    assert "PSEUDO-LABELS" in " ".join(tables["store-tagging.conformer"].about)


def test_a_study_comes_from_the_store_as_from_its_folder(tmp_path: Path) -> None:
    study(tmp_path / "study")
    table = json.loads((tmp_path / "study" / "table.json").read_text())
    cells = []
    for name in table["codecs"]:
        about = {key: {p: of.get(name) for p, of in table[key].items()} for key in ("values", "corruption", "context")}
        about |= {key: table[key] for key in ("songs", "hours")} | {k: FACTS[k] for k in ("frame_rate", "streams")}
        about["codebooks"] = [book for book in table["codebooks"] if book["tokenizer"] == name]
        one = cell(name, "lm", [MEL], ["vocals"], about=about)
        cells.append(replace(one, inputs=Inputs(name, "lm", HASH[name], "11" * 32, table["config"])))
    ours, theirs = of_cells(cells), read_table(tmp_path / "study")
    for field in ("tokenizers", "values", "costs", "contexts", "books", "songs", "hours", "sizes", "frame_rates"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert len(theirs.costs["vocals-to-accompaniment"]["ours"]) == 5


def sounds(folder: Path, songs: int = 2) -> None:
    draw = torch.Generator().manual_seed(0)
    for i in range(songs):
        for place, (system, gain) in enumerate({ORIGINAL: 0.1, "ours": 0.4, "theirs": 0.02}.items()):
            quiet = torch.randn(1, 4 * 48_000, generator=draw) * gain
            quiet[:, : 48_000 * (1 + place // 9)] *= 0.01
            write_sound(folder / system / "vocals" / f"song{i}.wav", quiet, 48_000)


def test_players_are_equally_loud_and_the_page_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sounds(tmp_path / "kept")
    monkeypatch.setattr(hearing, "SECONDS", 2.0)
    monkeypatch.setattr(hearing, "spectrogram", lambda _: b"picture")
    heard: list[float] = []

    def listen(sound: torch.Tensor) -> str:
        heard.append(integrated_loudness([sound], 48_000))
        assert float(sound.abs().max()) < 0.9
        return "data:" + "x" * 1000

    monkeypatch.setattr(hearing, "audio_uri", listen)
    found = hearing.players(tmp_path / "kept", 10**6, ["theirs", "ours"], ["song0"])
    assert [[p.system for p in group.players] for group in found.groups] == 2 * [["original", "theirs", "ours"]]
    for group in found.groups:
        assert group.start >= 1.0, "not the quiet second"
    assert max(heard[:3]) - min(heard[:3]) < 0.1 and heard[0] == pytest.approx(found.groups[0].lufs, abs=0.1)
    (tmp_path / "kept" / "ours" / "vocals" / "song0.wav").write_bytes(b"no sound")
    (tmp_path / "kept" / "theirs" / "vocals" / "song1.wav").unlink()
    less = hearing.players(tmp_path / "kept", found.groups[0].size, ["theirs", "ours"])
    assert [group.song for group in less.groups] == ["song0"] and len(less.groups[0].players) == 2
    assert any("song0.wav" in note for note in less.notes)
    assert "song1, vocals: theirs gave no sound" in less.notes and any("over its limit" in note for note in less.notes)
    with pytest.raises(ReportError, match="no folder of decoded sounds"):
        hearing.players(tmp_path, 1)


def test_the_command(folders: tuple[Path, Path, Path], tmp_path: Path, undrawn: None) -> None:
    page, text = tmp_path / "r.html", tmp_path / "r.md"
    words = ["report", *map(str, folders), "-o", str(page), "-o", str(text)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert page.stat().st_size < 3_000_000 and "ours" in text.read_text() and f"-o {text}" in text.read_text()
    before = text.read_bytes()
    assert CliRunner().invoke(app, words).exit_code == 0 and text.read_bytes() == before, "the same of the same"
    text.write_text("my notes")
    for wrong, told in (
        (words, "not made by this command"),
        (["report", str(folders[0]), "-o", str(tmp_path / "r.pdf")], "reports end with .html or .md"),
        (["report", str(tmp_path / "no"), "-o", str(tmp_path / "n.md")], "no such folder"),
    ):
        done = CliRunner().invoke(app, wrong)
        assert done.exit_code == 1 and told in done.output
    assert text.read_text() == "my notes"


def test_pictures_show_the_numbers_and_are_the_same_twice(report: Report) -> None:
    found = {part.key: part for part in report.parts if isinstance(part, Picture)}
    assert list(found) == ["figure1", "figure3", "figure4", "figure6"] and not any(p.missing for p in found.values())
    assert [len(p.panels) for p in found.values()] == [2, 4, 2, 4]
    assert all(panel.svg.startswith(b"<?xml") and panel.alt for p in found.values() for panel in p.panels)
    mel = next(r for r in tables_of(report)["table-1"].ours if r.name == "ours")
    assert f"ours: cnBPT {mel.cells[5][:5]}, mel {mel.cells[6][:5]}" in found["figure1"].panels[0].alt
    assert "DuoTok: 17.3 percent" in found["figure3"].panels[-1].alt
    bar = Bar("ours", "ours", Interval(0.5, 0.4, 0.7))
    assert bars([bar], "cost (%)") == bars([bar], "cost (%)") != bars([replace(bar, name="theirs")], "cost (%)")
    assert all(row.whose != PAPER for table in report.instruments for row in table.rows)
