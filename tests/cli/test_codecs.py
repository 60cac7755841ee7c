"""`duotok codecs`: what there is, how to get it, whether it keeps its promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.codec.tiny_codecs import make_codec
from tests.tiny import tiny_bundle
from typer.testing import CliRunner

from duotok.cli.eval.options import _has_several
from duotok.cli.main import app
from duotok.codec.catalogue import ENTRIES
from duotok.evaluation.anchors import ANCHORS


def run(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["codecs", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.output


def test_the_list_names_every_codec() -> None:
    text = run("list")
    lines = {line.split()[0] for line in text.splitlines() if line and not line.startswith(" ")}
    assert {*ENTRIES, *ANCHORS} <= lines and "licence: CC BY-NC 4.0" in text
    facts = json.loads(run("list", "--json"))
    assert {*facts["codecs"]} == {*ENTRIES} and {*facts["anchors"]} == {*ANCHORS}
    assert facts["codecs"]["heartcodec"]["encodes"] is False and facts["codecs"]["duotok"]["here"] == "yes"


@pytest.mark.parametrize("name", [*ENTRIES, *ANCHORS])
def test_each_is_described(name: str) -> None:
    text = run("describe", name)
    assert text.startswith(f"{name}: ") and max(map(len, text.splitlines())) <= 240
    facts = json.loads(run("describe", name, "--json"))
    assert facts["name"] == name and facts["here"]
    if name in ENTRIES:
        assert "How to get it" in text and ENTRIES[name].use in text


def test_a_name_that_there_is_not() -> None:
    assert "did you mean mimi?" in run("describe", "mimmi", code=1)
    assert "no such folder" in run("check", "transformers:nowhere", code=1)
    assert "give both or neither" in run("check", "mini", "--vocals", "a.wav", code=1)


def test_a_codec_of_transformers_is_checked(tmp_path: Path) -> None:
    folder = make_codec(tmp_path, "dac")
    found = json.loads(run("check", f"transformers:{folder}", "--codebooks", "2", "--seconds", "1", "--mix", "--json"))
    assert found["lengths"]["remainders"] == 40 and found["lengths"]["problems"] == []
    assert found["streams"] == {"mix": [16, 16]}
    shares = {share["case"]: share for share in found["shares"]}
    assert shares["encoded again"]["streams"] == {"mix": 1.0} and shares["mono, against dual mono"]["streams"] == {
        "mix": 1.0
    }
    assert len(shares["-6 dB"]["codebooks"]["mix"]) == 2


def test_a_bundle_is_checked(tmp_path: Path) -> None:
    text = run("check", tiny_bundle(tmp_path), "--seconds", "1")
    assert "1920 remainders of a frame of 1920 samples" in text and "all as promised" in text
    row = next(line for line in text.splitlines() if line.startswith("mono, against dual mono"))
    assert row.split()[-3:-1] == ["1.0000", "1.0000"]


def test_codebooks_of_an_evaluation_are_for_those_that_have_several(tmp_path: Path) -> None:
    """Beside one with a fixed number of them, which would refuse another."""
    texts = {"mini": False, "opus": False, "dac=transformers:dac": True, f"external:{tmp_path}/nowhere.yaml": True}
    for codec, several in (
        ("wavtokenizer", False),
        ("semanticodec", False),
        ("levo", False),
        ("moss", True),
        ("yue-xcodec", True),
    ):
        (tmp_path / f"{codec}.yaml").write_text(f"codec: {codec}\npython: python\nweights: weights\n")
        texts[f"{codec}=external:{tmp_path}/{codec}.yaml"] = several
    assert {text: _has_several(text) for text in texts} == texts
