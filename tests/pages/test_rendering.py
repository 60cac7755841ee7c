"""Pages: values are text whatever they hold, templates say what they need, style and scripts go in as they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from tests.page_reader import Page
from tests.test_layers import SOURCE

from duotok.pages.rendering import SHARED, render

FOLDERS = sorted(SOURCE.rglob("templates"))
FILES = [path for folder in FOLDERS for path in sorted(folder.iterdir())]
ODD = """<script>alert(1)</script> </title> "quoted" 'too' & ü 🎵 {{ 7 * 7 }} {% raw %}"""
TEMPLATE = """{% extends "page.html.j2" %}
{% from "macros.html.j2" import fact, figure, table %}
{% block title %}{{ name }}{% endblock %}
{% block content %}
{{ fact(name, name) }}
{{ figure(name, "data:,", note=name) }}
{{ table(name, [name], [[name]]) }}
{% call table(name, [name]) %}<tr><td>{{ name }}</td></tr>{% endcall %}
{% endblock %}
"""


def page(folder: Path, text: str = TEMPLATE, **values: object) -> str:
    (folder / "made.html.j2").write_text(text, encoding="utf-8")
    return render(folder / "made.html.j2", **values)


def test_whatever_a_value_holds_is_text(tmp_path: Path) -> None:
    found = Page(page(tmp_path, name=ODD))
    assert found.count("script") == 1, "the page's own"
    assert found.text.count(ODD) == 2 + 2 + 2 + 2 + 2  # title and heading; fact, figure and both tables twice
    names = [fields["aria-label"] for _, fields in found.tags if fields.get("role") == "region"]
    assert names == [ODD, ODD] and [fields["alt"] for tag, fields in found.tags if tag == "img"] == [ODD]


def test_bytes_that_are_no_text_are_shown(tmp_path: Path) -> None:
    made = page(tmp_path, name="caf\udce9 \ud83d")
    assert "<title>caf\\xe9 \\ud83d · DuoTok</title>" in made
    made.encode()


def test_a_name_turns_no_other_text_around(tmp_path: Path) -> None:
    """Marks that set the direction of whatever follows, up to the end of the paragraph."""
    assert "<title>one\\u202etwo\\u2067 · DuoTok</title>" in page(tmp_path, name="one\u202etwo\u2067")


def test_a_value_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="name"):
        page(tmp_path)


def test_the_rooms_that_have_templates() -> None:
    assert {folder.parent.name for folder in FOLDERS} == {"demo", "data", "listening", "pages", "report"}
    assert {path.name.partition(".")[2] for path in FILES} == {"html.j2", "css", "js"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_template_file_keeps_to_the_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".j2":
        assert not re.search(r"\|\s*safe|autoescape|Markup", text), "escaping is never switched off"
        for name in re.findall(r"source\(\"(.+?)\"\)", text):
            assert (path.parent / name).is_file() or (SHARED / name).is_file(), name
    else:
        # as they are: nothing may end the element that they stand in, or look like something to fill in
        assert "</" not in text and not re.search(r"\{[{%#]", text)
        used = "".join(other.read_text(encoding="utf-8") for other in FILES if other.suffix == ".j2")
        assert f'source("{path.name}")' in used, "nobody uses it"
