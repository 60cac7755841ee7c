"""The report of a listening test: a page, Markdown, JSON, and every rating as CSV."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from duotok.files import sha256, write_bytes
from duotok.listening.analysis import Analysis, Table
from duotok.listening.intervals import LEVEL, Mean
from duotok.listening.pictures import means_picture
from duotok.listening.plan import REFERENCE
from duotok.listening.scale import GRADES, RANGES, Method
from duotok.pages.rendering import png_uri, render
from duotok.seals import read_json, seal

TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"
FACTS = "report.json"
NAMES = ("index.html", "report.md", "means.csv", "ratings.csv", FACTS)
MADE_BY = "duotok listen report"


def outputs(folder: Path) -> list[Path]:
    """The files that `write` makes."""
    return [folder / name for name in NAMES]


def made_before(folder: Path) -> Callable[[Path], bool]:
    """A function that tells whether a file of `folder` is as an earlier `write` left it, by the hashes in report.json."""
    try:
        facts = read_json((folder / FACTS).read_bytes())
        hashes = dict(facts["files"]) if facts["made_by"] == MADE_BY else {}
    except (OSError, ValueError, KeyError, TypeError):
        hashes = {}

    def as_written(path: Path) -> bool:
        if path.name == FACTS:
            return bool(hashes)
        # null: that run was stopped while the file was being written
        return path.is_file() and path.name in hashes and hashes[path.name] in (None, sha256(path))

    return as_written


def write(analysis: Analysis, folder: Path, version: str) -> list[Path]:
    """Write all files into `folder`, replacing those that are there: ask `made_before` first. Raises OSError."""
    files = {
        "index.html": page(analysis, version).encode(),
        "report.md": as_markdown(analysis).encode(),
        "means.csv": means_csv(analysis).encode(),
        "ratings.csv": ratings_csv(analysis).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)

    def facts(hashes: dict[str, str | None]) -> None:
        text = json.dumps(seal({**as_json(analysis, version), "files": hashes}), indent=1, allow_nan=False)
        write_bytes(folder / FACTS, text.encode() + b"\n")

    facts(dict.fromkeys(files))
    for name, data in files.items():
        write_bytes(folder / name, data)
    facts({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    return outputs(folder)


def as_json(analysis: Analysis, version: str) -> dict[str, Any]:
    """All figures, with the seed, the seal of the test, the rule and the definition of the interval."""
    plan = analysis.test.plan

    def table(found: Table) -> dict[str, Any]:
        return {
            "raters": found.raters,
            "ratings": found.ratings,
            "means": {t: {n: dataclasses.asdict(m) for n, m in of.items()} for t, of in found.means.items()},
            "differences": {
                t: {n: dataclasses.asdict(m) for n, m in of.items()} for t, of in found.differences.items()
            },
        }

    return {
        "made_by": MADE_BY,
        "version": version,
        "test": {
            "title": plan.title, "method": plan.method, "seed": plan.seed, "seal": analysis.test.identity,
            "built_by": plan.made_by, "lufs": plan.lufs, "systems": plan.descriptions, "anchors": plan.anchors,
            "clips": len(plan.clips), "clips_per_rater": plan.clips_per_rater,
        },
        "interval": f"{LEVEL:.0%}, two-way clustered over raters and songs (docs/listening.md)",
        "rule": {"text": analysis.rule.text(plan.method), **dataclasses.asdict(analysis.rule)},
        "against": analysis.against,
        "complete": analysis.complete,
        "changed": analysis.changed,
        "excluded": {str(rater): reason for rater, reason in analysis.excluded.items()},
        "screened": table(analysis.screened),
        "everyone": table(analysis.everyone),
        "counts": {name: {str(s): count for s, count in sorted(of.items())} for name, of in analysis.counts.items()},
    }  # fmt: skip


def shown(found: Mean | None, method: Method, sign: str = "", nothing: str = "none counts") -> str:
    """`3.62 [3.31, 3.93]`, MUSHRA with one decimal; without an interval the mean alone; nothing: what None is. sign: "+" writes it."""
    if found is None:
        return nothing
    spec = f"{sign}.2f" if method == "mos" else f"{sign}.1f"
    if found.low is None or found.high is None:
        return f"{found.value:{spec}}"
    return f"{found.value:{spec}} [{found.low:{spec}}, {found.high:{spec}}]"


def name_of(condition: str) -> str:
    return "hidden reference" if condition == REFERENCE else condition


def rows(analysis: Analysis, table: Table) -> list[list[str]]:
    """A row for each condition: its mean in every track, ratings, raters."""
    lines = []
    nothing = "not rated" if table is analysis.everyone else "none counts"
    for name in analysis.test.conditions:
        found = [table.means[track].get(name) for track in analysis.tracks]
        whole = found[-1]  # the last one has all tracks
        n = ["0", "0"] if whole is None else [str(whole.ratings), str(whole.raters)]
        lines.append([name_of(name), *(shown(one, analysis.test.plan.method, nothing=nothing) for one in found), *n])
    return lines


def difference_rows(analysis: Analysis) -> list[list[str]]:
    """A row for each condition but the first system: its paired difference to that in every track."""
    method, found = analysis.test.plan.method, analysis.screened.differences
    return [
        [name_of(name), *(shown(found[track].get(name), method, "+") for track in analysis.tracks)]
        for name in analysis.test.conditions
        if name != analysis.against
    ]


def count_rows(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Head and rows of how often each score was given (MUSHRA: each fifth of the scale)."""
    if analysis.test.plan.method == "mos":
        heads = [f"{grade.value} {grade.word}" for grade in GRADES]
        groups = [[grade.value] for grade in GRADES]
    else:
        heads = [grade.word for grade in GRADES]
        groups = [list(range(low, low + 20 + (low == 80))) for low in (80, 60, 40, 20, 0)]
    return heads, [
        [name_of(name), *(str(sum(counts[score] for score in group)) for group in groups)]
        for name, counts in analysis.counts.items()
    ]


def intervals_told(analysis: Analysis) -> str:
    """What the intervals of the screened tables are over, and why there is none where there is none."""
    means = [found for of in analysis.screened.means.values() for found in of.values()]
    over = dict.fromkeys(mean.over for mean in means if mean.low is not None)
    none = dict.fromkeys(mean.over for mean in means if mean.low is None)
    told = [f"In brackets: {LEVEL:.0%} intervals, over {'; '.join(over)}."] if over else []
    return " ".join([*told, *(f"{why[0].upper()}{why[1:]}." for why in none)]) or "No intervals, for nobody counts."


def summary(analysis: Analysis) -> str:
    """How many rated, who counts."""
    everyone, kept = analysis.everyone, analysis.screened
    return (
        f"{everyone.ratings} ratings of {everyone.raters} raters, of whom {analysis.complete} rated all of theirs; "
        f"{len(analysis.excluded)} excluded by the anchors, {kept.ratings} ratings of {kept.raters} raters count."
    )


def as_markdown(analysis: Analysis) -> str:
    """The tables as Markdown."""
    plan = analysis.test.plan
    head = ["condition", *analysis.tracks, "ratings", "raters"]
    count_head, counts = count_rows(analysis)
    scale = "mean opinion scores, 1 to 5" if plan.method == "mos" else "MUSHRA scores, 0 to 100"
    lines = [
        f"# {plan.title}", "", f"{scale[:1].upper()}{scale[1:]}. {summary(analysis)}", "",
        intervals_told(analysis), "",
        "## Scores", "", *_table(head, rows(analysis, analysis.screened)), "",
        f"## Differences to {analysis.against}", "", "Of the same rater and clip.", "",
        *_table(["condition", *analysis.tracks], difference_rows(analysis)), "",
        "## How often each score was given", "", *_table(["condition", *count_head], counts), "",
        "## Screening", "", analysis.rule.text(plan.method), "",
        *([f"- rater {rater}: {reason}" for rater, reason in analysis.excluded.items()] or ["Nobody is excluded."]), "",
        "Of all raters, without screening:", "", *_table(head, rows(analysis, analysis.everyone)), "",
        f"Test {analysis.test.identity[:12]}, seed {plan.seed}, built by {plan.made_by}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _table(head: list[str], lines: list[list[str]]) -> list[str]:
    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [row(head), "|---" * len(head) + "|", *map(row, lines)]


def means_csv(analysis: Analysis) -> str:
    """A line for each table, track and condition."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(
        ["raters_counted", "track", "condition", "mean", "low", "high", "interval_over", "ratings", "raters", "songs"]
    )
    for kind, table in (("screened", analysis.screened), ("everyone", analysis.everyone)):
        for track, of in table.means.items():
            for name, m in of.items():
                ends = ["none" if end is None else f"{end:.4f}" for end in (m.low, m.high)]
                out.writerow([kind, track, name, f"{m.value:.4f}", *ends, m.over, m.ratings, m.raters, m.songs])
    return text.getvalue()


def ratings_csv(analysis: Analysis) -> str:
    """A line for each rating, raters by number: for other programs."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["rater", "excluded", "song", "track", "start", "condition", "score"])
    for score in analysis.scores:
        clip = analysis.test.clips[score.clip]
        gone = "yes" if score.rater in analysis.excluded else "no"
        out.writerow([score.rater, gone, clip.song, clip.track, f"{clip.start:g}", score.system, f"{score.value:g}"])
    return text.getvalue()


def _in_words(analysis: Analysis, track: str) -> str:
    """What the picture of a track shows, for those who do not see it."""
    means = analysis.screened.means[track]
    parts = (f"{name_of(name)} {shown(found, analysis.test.plan.method)}" for name, found in means.items())
    return f"mean scores, {track}: {'; '.join(parts) or 'none'}"


def page(analysis: Analysis, version: str) -> str:
    """The page: self-contained."""
    plan = analysis.test.plan
    count_head, counts = count_rows(analysis)
    return render(
        TEMPLATE,
        plan=plan,
        summary=summary(analysis),
        facts=[
            (str(analysis.screened.raters), f"raters that count, of {analysis.everyone.raters}"),
            (str(analysis.screened.ratings), "ratings that count"),
            (str(len({clip.song for clip in plan.clips})), "songs"),
            (str(len(plan.clips)), f"clips of {plan.clips[0].seconds:g} s"),
            (f"{plan.lufs:.1f} LUFS", "every sound"),
        ],
        scale=RANGES[plan.method],
        grades=GRADES,
        pictures=[
            (track, png_uri(means_picture(analysis, track)), _in_words(analysis, track))
            for track in analysis.tracks
            if analysis.screened.means[track]
        ],
        tracks=analysis.tracks,
        head=["condition", *analysis.tracks, "ratings", "raters"],
        screened=rows(analysis, analysis.screened),
        everyone=rows(analysis, analysis.everyone),
        differences=difference_rows(analysis),
        against=analysis.against,
        intervals=intervals_told(analysis),
        level=f"{LEVEL:.0%}",
        count_head=["condition", *count_head],
        counts=counts,
        rule=analysis.rule.text(plan.method),
        excluded=[[f"rater {rater}", reason] for rater, reason in analysis.excluded.items()],
        conditions=[
            ["hidden reference", "the original"],
            *([name, plan.descriptions[name]] for name in plan.systems),
            *([name, f"the original without what lies above {hz:g} Hz"] for name, hz in plan.anchors.items()),
        ],
        seal=analysis.test.identity[:12],
        version=version,
    )
