"""`duotok listen`: listening tests, from sounds to mean opinion scores."""

from __future__ import annotations

import typer

from duotok.cli.listen.build import build
from duotok.cli.listen.export import export
from duotok.cli.listen.report import report
from duotok.cli.listen.serve import serve

HELP = """
Blind listening tests: mean opinion scores (1 to 5), or MUSHRA (0 to 100 beside a reference).

\b
  duotok listen build originals -o test --tokenizer mini --opus 6
  duotok listen serve test                  raters open the address that it prints
  duotok listen report test -o result       scores with intervals, as a page and as tables
  duotok listen export test -o webmushra    the same test for webMUSHRA

docs/listening.md tells it all.
"""

app = typer.Typer(name="listen", help=HELP, no_args_is_help=True, rich_markup_mode=None)
app.command("build")(build)
app.command("serve")(serve)
app.command("report")(report)
app.command("export")(export)
