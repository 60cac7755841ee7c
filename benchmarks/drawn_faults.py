"""Faults drawn at random: a changed operator, number, comparison, condition, argument order or left-out call, and the tests must fail.

    python -m benchmarks.drawn_faults src/duotok/model src/duotok/renderer -n 100 --seed 1
    python -m benchmarks.drawn_faults src/duotok/model -n 20 --list

Where `benchmarks.faults` holds what a person could think of, this finds what nobody thought of. Candidates are the lines of the files that
`benchmarks/fault_list.py` names, the tests those of these files. A survivor is no proof: many changes mean nothing (a larger block,
`<` for `<=` of random numbers, a bound that is wider than it must be). Somebody has to look at each.
"""

from __future__ import annotations

import argparse
import ast
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.calling import int_from_0, mistakes_in_one_line, positive_int
from benchmarks.fault_list import FAULTS
from benchmarks.faults import ROOT, copied, load_libraries, run_tests

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
CALLS = ("detach", "float", "abs", "square", "sqrt", "exp", "log", "sum", "mean", "clamp_min", "clamp")
"""Methods that are left out."""
PICTURES = ("sample", "report", "__repr__", "__str__")
"""Functions whose work no test has to hold to the digit."""


def _left_alone(tree: ast.AST) -> set[int]:
    """Nodes inside messages, annotations, descriptions of fields and functions that draw."""
    found: set[int] = set()
    for node in ast.walk(tree):
        roots: list[ast.AST | None] = []
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            roots = [node]
        elif isinstance(node, ast.FunctionDef):
            roots = [node] if node.name in PICTURES else [node.returns, *(a.annotation for a in node.args.args)]
        elif isinstance(node, ast.AnnAssign):
            roots = [node.annotation]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
            roots = list(node.keywords)
        found.update(id(inner) for root in roots if root is not None for inner in ast.walk(root))
    return found


def _kind(node: ast.AST) -> str:
    """How a node can be changed; empty when it cannot."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return "operator"
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        return "comparison"
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        return "value"
    if isinstance(node, ast.If | ast.IfExp):
        return "condition"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return "statement"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS:
        return "call"
    if isinstance(node, ast.Call) and len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args):
        return "arguments"
    return ""


def candidates(source: str) -> list[int]:
    """Numbers of the nodes of a module, in the order of `ast.walk`, that can be changed."""
    tree = ast.parse(source)
    alone = _left_alone(tree)
    return [number for number, node in enumerate(ast.walk(tree)) if id(node) not in alone and _kind(node)]


def changed(source: str, number: int) -> str:
    """The module with its node of that number changed; without comments."""
    tree = ast.parse(source)
    node = list(ast.walk(tree))[number]
    kind = _kind(node)
    if isinstance(node, ast.BinOp):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops = [COMPARISONS[type(node.ops[0])]()]
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 2 * value + 0.1  # type: ignore[operator]
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Expr):
        _replace(tree, node, ast.Pass())
    elif isinstance(node, ast.Call) and kind == "call":
        assert isinstance(node.func, ast.Attribute)
        _replace(tree, node, node.func.value)
    elif isinstance(node, ast.Call):
        node.args[0], node.args[1] = node.args[1], node.args[0]
    return ast.unparse(ast.fix_missing_locations(tree))


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list):
                value[:] = [new if each is old else each for each in value]


def difference(source: str, other: str) -> tuple[str, str]:
    """The first line that differs, before and after."""
    before, after = ast.unparse(ast.parse(source)).splitlines(), other.splitlines()
    pairs = [(a.strip(), b.strip()) for a, b in zip(before, after, strict=False) if a != b]
    return pairs[0] if pairs else ("", "")


@mistakes_in_one_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", help="files or folders, as the fault list names them")
    parser.add_argument("-n", "--count", type=positive_int, default=50)
    parser.add_argument("--seed", type=int_from_0, default=0)
    parser.add_argument("--list", action="store_true", help="print what would be changed and stop")
    options = parser.parse_args()
    tests: dict[str, dict[str, None]] = {}
    for fault in FAULTS:
        if fault.file.startswith(tuple(options.places)):
            tests.setdefault(fault.file, {}).update(dict.fromkeys(fault.tests))
    sources = {file: (ROOT / file).read_text(encoding="utf-8") for file in sorted(tests)}
    every = [(file, number) for file, source in sources.items() for number in candidates(source)]
    if not every:
        sys.exit(
            f"error: {', '.join(options.places)}: no file of the fault list; `python -m benchmarks.faults --list` names them"
        )
    chosen = random.Random(options.seed).sample(every, min(options.count, len(every)))
    survived = 0
    with tempfile.TemporaryDirectory(prefix="duotok-faults-") as folder:
        copy = Path(folder)
        if not options.list:
            copied(copy)
            load_libraries()
        for count, (file, number) in enumerate(chosen, 1):
            other = changed(sources[file], number)
            old, new = difference(sources[file], other)
            print(f"{count}/{len(chosen)} {file}\n  - {old}\n  + {new}", flush=True)
            if options.list:
                continue
            (copy / file).write_text(other, encoding="utf-8")
            began = time.monotonic()
            by = run_tests(copy, tuple(tests[file]))
            (copy / file).write_text(sources[file], encoding="utf-8")
            survived += not by
            print(f"  {f'killed by {by}' if by else 'SURVIVED'} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(chosen)} faults" + ("" if options.list else f", {survived} survived"))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
