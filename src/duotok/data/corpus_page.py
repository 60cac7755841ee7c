"""The report on a data set as one self-contained HTML page."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

import duotok
from duotok.data.corpus_figures import CorpusReport, Mixed
from duotok.data.corpus_pictures import amount

STYLE = """
:root { color-scheme: light dark; --ground:#fbfaf8; --card:#fff; --ink:#1d2026; --soft:#626874; --line:#e4e2dd;
  --good:#1f8a5b; --bad:#c0392b; }
@media (prefers-color-scheme: dark) { :root { --ground:#13151a; --card:#1b1e25; --ink:#e9eaee; --soft:#9aa1ae;
  --line:#2c313b; --good:#5ac596; --bad:#f0806f; } }
* { box-sizing: border-box; }
body { margin:0; background:var(--ground); color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif; }
main { max-width:1180px; margin:0 auto; padding:2.2rem 1.2rem 4rem; }
h1 { font-size:1.9rem; margin:0 0 .3rem; letter-spacing:-.01em; }
h2 { font-size:1.25rem; margin:2.8rem 0 .4rem; }
h3 { font-size:.98rem; margin:0 0 .5rem; }
p { max-width:74ch; margin:.4rem 0 .8rem; }
.lead { font-size:1.06rem; } .soft, small { color:var(--soft); }
.good { color:var(--good); } .bad { color:var(--bad); }
.facts { display:flex; flex-wrap:wrap; gap:.7rem; margin:1.3rem 0 0; padding:0; list-style:none; }
.facts li { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:.6rem .95rem;
  min-width:8.2rem; }
.facts b { display:block; font-size:1.24rem; font-variant-numeric:tabular-nums; }
.facts span { color:var(--soft); font-size:.84rem; }
.grid { display:grid; grid-template-columns:1fr 1fr; gap:1rem; align-items:start; }
.card { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:.8rem .9rem .9rem;
  margin:0; min-width:0; }
.card img { width:100%; max-width:620px; display:block; }
.card p { font-size:.88rem; color:var(--soft); margin:.5rem 0 0; }
table { border-collapse:collapse; width:100%; margin:.7rem 0; font-variant-numeric:tabular-nums;
  background:var(--card); border:1px solid var(--line); border-radius:10px; }
th,td { text-align:right; padding:.5rem .8rem; border-bottom:1px solid var(--line); vertical-align:top; }
th:first-child,td:first-child,.text td,.text th { text-align:left; } tr:last-child td { border-bottom:0; }
th { font-size:.86rem; color:var(--soft); font-weight:600; } .wide { overflow-x:auto; }
.text td { overflow-wrap:anywhere; } td:first-child { white-space:nowrap; }
code { font:0.88em ui-monospace,Menlo,Consolas,monospace; background:color-mix(in srgb,var(--line) 55%,transparent);
  padding:.1em .35em; border-radius:4px; }
@media (max-width:720px) { .grid { grid-template-columns:1fr; } }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Training data · DuoTok</title><link rel="icon" href="data:,"><style>$style</style></head>
<body><main>
<h1>Training data</h1>
<p class="lead">$lead</p>
<ul class="facts">$cards</ul>

<h2>What it holds</h2>
<p>Hours and number of segments. A segment of a separated song with a voice gives three samples: the full mix, the
vocals, and the accompaniment of the same stretch; so the sample types together are more than the whole.</p>
<div class="grid">$content</div>

<h2>Segments</h2>
<div class="grid">$shape</div>

<h2>Lyrics in the paper's mixtures</h2>
<p>What the train split would give, and all splits together. Words are heard in full mixes and in vocals. The paper states 5/7 for stage 2 and 1/2
for stage 3 (appendix C.3): that is what it comes to when those two components take only segments whose words are
known.</p>
<div class="grid">$lyrics</div>
<div class="wide"><table>$mixtures</table></div>

<h2>Splits</h2>
<p>$splits</p>
<div class="wide"><table>$split_table</table></div>

<h2>What was left out</h2>
$failures

<p class="soft">Made by <code>duotok data report</code> $version. The same figures as data: <code>facts.json</code>.</p>
</main></body></html>
"""

CONTENT = {
    "types": ("Sample types", "The paper's four; “other” is what only stage 1 hears."),
    "activities": ("What is heard", "lyrics: with known words; voice: without; unknown: a mix that nobody separated."),
    "kinds": ("Kinds of recordings", ""),
    "corpora": ("Corpora", ""),
    "splits": ("Splits", ""),
    "licences": ("Licences", "Class of the licence text of each recording; what is not understood is unknown."),
    "languages": ("Languages", ""),
}
SHAPE = {
    "durations": ("Length", ""),
    "loudness": (
        "Loudness",
        "Of the mix as it is, estimated from the levels of the token frames. Training brings each recording to -18 LUFS.",
    ),
    "words": ("Words", "Of segments whose words have times."),
}


def _png(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _card(title: str, note: str, data: bytes) -> str:
    text = f"<p>{note}</p>" if note else ""
    return f'<figure class="card"><h3>{title}</h3><img src="{_png(data)}" alt="{title}">{text}</figure>'


def _cards(titles: Mapping[str, tuple[str, str]], drawn: Mapping[str, bytes]) -> str:
    cards = ((title, note, drawn.get(f"{name}.png")) for name, (title, note) in titles.items())
    return "".join(_card(title, note, data) for title, note, data in cards if data is not None)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"


def _fact(value: str, label: str) -> str:
    return f"<li><b>{value}</b><span>{label}</span></li>"


def _share(value: float | None) -> str:
    return "cannot be drawn" if value is None else f"{value:.1%}"


def _mixture(name: str, mixture: Mixed) -> list[str]:
    parts = []
    for component, count in mixture.segments.items():
        words = f", {mixture.worded[component]:,} with words" if component in mixture.worded else ""
        parts.append(f"{component} {count:,}{words}" if count else f'<span class="bad">{component}: none</span>')
    return [name, "; ".join(parts), _share(mixture.plain), _share(mixture.required), f"{mixture.paper:.1%}"]


def _failures(report: CorpusReport) -> str:
    if not report.failures:
        return '<p class="good">Nothing: the ledgers name no unit that failed.</p>'
    rows = [
        [
            f.step,
            html.escape(f.reason),
            f"{f.count:,}",
            html.escape(", ".join(f.units)) + (" …" if f.count > len(f.units) else ""),
        ]
        for f in report.failures
    ]
    table = _table(["step", "reason", "units", "which"], rows)
    return (
        "<p>By the ledgers of all steps; <code>WORK/ledger/STEP.jsonl</code> names every unit with the whole reason.</p>"
        f'<div class="wide text"><table>{table}</table></div>'
    )


def _splits(report: CorpusReport) -> tuple[str, str]:
    rows = [
        [split, amount(report.hours["split"].get(split, 0.0)), f"{report.segments['split'].get(split, 0):,}", f"{n:,}"]
        for split, n in report.identities.items()
    ]
    table = _table(["", "length", "segments", "identities"], rows)
    if report.shared_identities:
        return f'<b class="bad">{report.shared_identities:,} identities are in more than one split.</b>', table
    return "No identity (artist, speaker or song, as the corpus tells) is in two splits.", table


def facts(report: CorpusReport) -> dict[str, Any]:
    """The figures as JSON-able values."""
    return {"duotok": duotok.__version__, **dataclasses.asdict(report)}


def render(report: CorpusReport, drawn: Mapping[str, bytes]) -> str:
    """The page; drawn: PNG bytes by file name."""
    hours, segments = report.hours["all"]["all"], report.segments["all"]["all"]
    worded = report.hours["activity"].get("lyrics", 0.0)
    cards = [
        _fact(amount(hours), "in segments"),
        _fact(f"{segments:,}", "segments"),
        _fact(f"{report.used:,} of {report.recordings:,}", "recordings used"),
        _fact(f"{hours * 3600 / segments:.1f} s", "mean length"),
        _fact(f"{worded / hours:.0%}", "of the time with words"),
    ]
    if report.shards:
        cards.append(_fact(f"{report.shards['bytes'] / 1e9:,.2f} GB", f"in {report.shards['files']:,} shards"))
    names = ", ".join(html.escape(name) for name in report.hours["corpus"])
    splits, split_table = _splits(report)
    fields = {
        "style": STYLE,
        "lead": f"What the data path made of {names}: segments of 5 to 30 s, cut between sentences where lyrics are "
        "known and at quiet places otherwise.",
        "cards": "".join(cards),
        "content": _cards(CONTENT, drawn),
        "shape": _cards(SHAPE, drawn),
        "lyrics": _cards({"mixtures": ("Items whose words are known", "")}, drawn),
        "mixtures": _table(
            ["", "segments", "as it is", "words required", "paper"],
            [_mixture(name, mixture) for name, mixture in report.mixtures.items()],
        ),
        "splits": splits,
        "split_table": split_table,
        "failures": _failures(report),
        "version": duotok.__version__,
    }
    return Template(PAGE).substitute(fields)
