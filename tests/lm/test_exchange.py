"""Exports: other programs read them, they come back as they were, and nothing altered is taken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.lm.small import CODEC, MIXED, song
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.errors import DuoTokError, TokenFileError
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.exchange import WRITERS, export_tokens, import_tokens, read_layout
from duotok.lm.layouts import KINDS, Layout
from duotok.lm.song import TokenizedSong
from duotok.lm.streams import CodecIdentity
from duotok.tokens import DualTokens


def songs(codec: CodecIdentity) -> list[TokenizedSong]:
    rng = np.random.default_rng(0)
    made = []
    for number, split in enumerate(["train"] * 70 + ["validation", "test"]):
        frames = int(rng.integers(1, 40))
        tokens = {
            s.name: np.stack([rng.integers(0, size, frames) for size in s.codebook_sizes]).astype(np.int32)
            for s in codec.streams
        }
        made.append(TokenizedSong(f"c/{number}@é", split, tokens, f"artist {number}", f"c/{number}", 3 * number))  # type: ignore[arg-type]
    return made


@pytest.fixture(scope="module", params=["one codebook", "several"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenCorpus:
    codec = CODEC if request.param == "one codebook" else MIXED
    path = tmp_path_factory.mktemp("corpus") / "tokens.parquet"
    vectors = {c.name: np.random.default_rng(1).normal(size=(c.size, 3)).astype(np.float16) for c in codec.columns}
    write_tokens(path, codec, songs(codec), "source", vectors)
    return TokenCorpus(path)


@pytest.mark.parametrize("to", WRITERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_very_songs_come_back(corpus: TokenCorpus, kind: str, to: str, tmp_path: Path) -> None:
    layout = Layout(corpus.identity, kind)  # type: ignore[arg-type]
    done = export_tokens(corpus, tmp_path / "out", layout, to)  # type: ignore[arg-type]
    assert done.songs == {"train": 70, "validation": 1, "test": 1}
    assert import_tokens(tmp_path / "out", tmp_path / "again.parquet") == 72
    again = TokenCorpus(tmp_path / "again.parquet", corpus.identity)
    for split in corpus.counts:
        before, after = corpus.songs(split), again.songs(split)  # type: ignore[arg-type]
        assert [song.sha256 for song in before] == [song.sha256 for song in after]
    assert again.vectors is not None and corpus.vectors is not None
    assert all(np.array_equal(again.vectors[name], table) for name, table in corpus.vectors.items())
    files = {path: path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()}
    export_tokens(corpus, tmp_path / "twice", layout, to)  # type: ignore[arg-type]
    assert all(
        (tmp_path / "twice" / path.relative_to(tmp_path / "out")).read_bytes() == data for path, data in files.items()
    )


@pytest.mark.parametrize("to", WRITERS)
def test_every_altered_file_is_named(corpus: TokenCorpus, to: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_tokens(corpus, out, Layout(corpus.identity), to)  # type: ignore[arg-type]
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for broken in (data[:-5], data[:-7] + bytes([data[-7] ^ 1]) + data[-6:]):
            path.write_bytes(broken)
            with pytest.raises(TokenFileError, match=re.escape(str(path))):
                import_tokens(out, tmp_path / "again.parquet")
        path.unlink()
        with pytest.raises(TokenFileError, match=re.escape(str(path))):
            import_tokens(out, tmp_path / "again.parquet")
        path.write_bytes(data)
    assert not (tmp_path / "again.parquet").exists() and import_tokens(out, tmp_path / "again.parquet") == 72


def test_a_tar_that_lies_beside_an_export_is_not_its(tmp_path: Path) -> None:
    for name in ("own", "other"):
        write_tokens(tmp_path / name, CODEC, [song(name, 20)])
        export_tokens(TokenCorpus(tmp_path / name), tmp_path / f"{name}.d", Layout(CODEC), "webdataset")
    (tmp_path / "other.d" / "train-000000.tar").rename(tmp_path / "own.d" / "train-000001.tar")
    assert import_tokens(tmp_path / "own.d", tmp_path / "again") == 1


def test_other_programs_read_them(corpus: TokenCorpus, tmp_path: Path) -> None:
    """pandas, webdataset and NumPy find the numbers where layout.json says."""
    import pandas
    import webdataset

    layout = Layout(corpus.identity)
    for to in WRITERS:
        export_tokens(corpus, tmp_path / to, layout, to)  # type: ignore[arg-type]
    expected = [layout.lay_out(song.tokens) for song in corpus.songs("train")]
    for place in ("parquet/train.parquet", "hf/data/train-00000-of-00001.parquet"):
        frame = pandas.read_parquet(tmp_path / place)
        assert all(np.array_equal(a, b) for a, b in zip(frame["input_ids"], expected, strict=True))
    tar = tmp_path / "webdataset" / "train-000000.tar"
    samples = list(webdataset.WebDataset(f"file:{tar}", shardshuffle=False).decode())
    assert all(np.array_equal(s["tokens.npy"], ids) for s, ids in zip(samples, expected, strict=True))
    assert [s["json"]["id"] for s in samples] == [song.id for song in corpus.songs("train")]
    flat, starts = (np.load(tmp_path / "npy" / f"train.{name}.npy") for name in ("tokens", "starts"))
    assert all(np.array_equal(flat[starts[i] : starts[i + 1]], ids) for i, ids in enumerate(expected))
    card = (tmp_path / "hf" / "README.md").read_text().split("---")[1]
    named = yaml.safe_load(card)["configs"][0]["data_files"]
    assert {
        entry["split"]: list((tmp_path / "hf").glob(entry["path"])) for entry in named
    }.keys() == corpus.counts.keys()
    assert all(len(list((tmp_path / "hf").glob(entry["path"]))) == 1 for entry in named)
    told = json.loads((tmp_path / "npy" / "layout.json").read_text())
    first = corpus.songs("train")[0]
    for c, column in enumerate(told["columns"]):
        codes = expected[0][1 + c : -1 : len(told["columns"])] - column["offset"]
        assert np.array_equal(codes, first.tokens[column["stream"]][column["codebook"]])
    assert int(flat.max()) < told["vocabulary"]


def test_nothing_is_replaced(corpus: TokenCorpus, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DuoTokError, match="is there already; name a new folder"):
        export_tokens(corpus, tmp_path / "out", Layout(corpus.identity), "npy")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "no JSON"),
        ("[]", "not the layout"),
        ("[" * 9999, "no JSON"),
        ('{"layout": 1, "codec": 2}', "format None"),
    ],
)
def test_what_is_no_layout(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "layout.json").write_text(text)
    with pytest.raises(TokenFileError, match=message):
        read_layout(tmp_path / "layout.json")


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["tokens", *map(str, words)])
    return done.exit_code, done.stdout + done.stderr


def test_the_commands(tmp_path: Path) -> None:
    """An export, and a sequence that some model has written, which becomes a token file."""
    path = tmp_path / "tokens.parquet"
    write_tokens(path, CODEC, songs(CODEC))
    code, told = run("export", path, "-o", tmp_path / "out", "--to", "npy", "--first-id", 7)
    assert (
        code == 0
        and "70 songs of train" in told
        and f"numbers below {7 + 3 + sum(c.size for c in CODEC.columns)}" in told
    )
    song = TokenCorpus(path).songs("test")[0]
    layout, _ = read_layout(tmp_path / "out" / "layout.json")
    np.save(tmp_path / "written.npy", layout.lay_out(song.tokens)[:-1])
    words = ("import", tmp_path / "written.npy", "--layout", tmp_path / "out" / "layout.json", "-o")
    code, told = run(*words, tmp_path / "song.duotok")
    assert code == 0, told
    tokens = DualTokens.load(tmp_path / "song.duotok")
    assert tokens.model_hash == CODEC.hash and tokens.vocals.tolist() == song.tokens["vocals"][0].tolist()
    assert "left out" not in told
    np.save(tmp_path / "two.npy", np.tile(layout.lay_out(song.tokens), 2))
    code, told = run("import", tmp_path / "two.npy", *words[2:], tmp_path / "two.duotok")
    assert code == 0 and f"2 x {song.frames} frames; {2 * song.frames + 1} numbers behind the end are left out" in told
    code, told = run("import", tmp_path / "out", "-o", tmp_path / "again.parquet", "--json")
    assert code == 0 and json.loads(told)["songs"] == 72
    empty = tmp_path / "empty.npy"
    empty.touch()
    for wrong, message in (
        ((*words, tmp_path / "song.duotok"), "--force replaces it"),
        (
            ("import", empty, "--layout", tmp_path / "out" / "layout.json", "-o", tmp_path / "x.duotok"),
            "empty.npy: cannot be read (no array of numbers)",
        ),
        ((*words, tmp_path / "song.npy"), "name it song.duotok"),
        (
            ("import", path, "--layout", tmp_path / "out" / "layout.json", "-o", tmp_path / "x.duotok"),
            "no array of numbers",
        ),
        (("import", tmp_path, "-o", tmp_path / "x.parquet"), "layout.json: cannot be read"),
        (("export", tmp_path / "none.parquet", "-o", tmp_path / "x"), "no such file"),
        (("export", path, "-o", tmp_path / "x", "--layout", "delayed", "--delay", "1"), "give 2 numbers"),
    ):
        code, told = run(*wrong)
        assert code == 1 and message in told and told.count("\n") == 1, told
    assert not any((tmp_path / name).exists() for name in ("x", "x.parquet", "x.duotok"))


def test_the_small_model_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/export.md runs as it stands, on an export of packed songs."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    example = page.partition("## A small model")[2].split("```python\n")[1].split("```")[0]
    write_tokens(tmp_path / "tokens.parquet", CODEC, songs(CODEC))
    corpus = TokenCorpus(tmp_path / "tokens.parquet")
    export_tokens(corpus, tmp_path / "export", Layout(corpus.identity), "npy")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(compile(example, "docs/export.md", "exec"), found)
    assert float(found["loss"]) > 0 and len(np.load("written.npy")) > 1  # type: ignore[arg-type]
