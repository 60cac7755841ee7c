"""Pages that need nothing but themselves: HTML from Jinja2 templates, with style, scripts, pictures and sounds inside.

A page is a template in the `templates` folder of its room. It extends `page.html.j2` and takes macros from `macros.html.j2`,
both in `pages/templates`. Style and scripts are real .css and .js files, put in as they are: nothing in them is a placeholder.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

SHARED = Path(__file__).parent / "templates"


def data_uri(data: bytes, kind: str) -> str:
    """`data:` address of some bytes; kind: their media type, as in "image/png"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_uri(data: bytes) -> str:
    """`data:` address of a PNG."""
    return data_uri(data, "image/png")


def environment(templates: Path) -> Environment:
    """What renders the templates of a folder and the shared ones.

    Whatever a value holds is shown as text, never read as HTML; a name that nobody gave raises jinja2.UndefinedError.
    `source(name)` is the text of a style sheet or script.
    """
    made = Environment(
        loader=FileSystemLoader([templates, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert made.loader is not None
    loader = made.loader
    made.globals["source"] = lambda name: Markup(loader.get_source(made, name)[0])
    return made


def render(page: Path, **values: object) -> str:
    """The page of a template file. Always valid UTF-8: bytes of file names that are none are shown as `\\xff`, and marks that turn
    the text around which follows as `\\u202e`.

    Raises jinja2.UndefinedError when the template needs a value that was not given.
    """
    text = environment(page.parent).get_template(page.name).render(values)
    return re.sub("[\ud800-\udfff\u202a-\u202e\u2066-\u2069]", _byte, text)


def _byte(lone: re.Match[str]) -> str:
    # Python keeps a byte of a file name that is no UTF-8 as half a surrogate pair, which no file can hold.
    code = ord(lone[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
