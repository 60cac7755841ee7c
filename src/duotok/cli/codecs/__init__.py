"""`duotok codecs`: which tokenizers there are, how to get one, what it keeps of its promises."""

from __future__ import annotations

import typer

from duotok.cli.codecs.check import check
from duotok.cli.codecs.describe import describe
from duotok.cli.codecs.list import list_

HELP = """
Tokenizers that DuoTok can be compared with, all behind one contract.

\b
  duotok codecs list                    what there is: rates, frames, codebooks, licences
  duotok codecs describe wavtokenizer   how to get one and what its codes depend on
  duotok codecs check mini              its lengths, and which codes change when nothing should

`--model` of `duotok pack` takes each of them. All details: docs/codecs.md.
"""

app = typer.Typer(name="codecs", help=HELP, no_args_is_help=True, rich_markup_mode=None)
app.command("list")(list_)
app.command("describe")(describe)
app.command("check")(check)
