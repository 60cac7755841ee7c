"""Comparisons of tokenizers: the same songs and settings or none, resumable, one table."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from duotok.cli.main import app
from duotok.codec.contract import Stream
from duotok.comparison.corpora import Row, moments, rows_of
from duotok.comparison.run import ModelRun, Scorer, train_and_score
from duotok.comparison.study import Comparison
from duotok.comparison.table import as_json, as_markdown, outputs, write
from duotok.comparison.workers import conduct
from duotok.errors import ConfigError, DuoTokError, MetricError
from duotok.lm.corpus import TokenCorpus, write_tokens
from duotok.lm.scores import SongScore
from duotok.lm.song import TokenizedSong
from duotok.lm.stage import LMStage
from duotok.lm.streams import CodecIdentity
from duotok.training import engine

FINE = CodecIdentity("fine", "ab" * 32, 25.0, 48_000, (Stream("vocals", (64,)), Stream("accompaniment", (1024,))))
COARSE = CodecIdentity("coarse", "cd" * 32, 12.5, 24_000, (Stream("vocals", (16, 8)), Stream("accompaniment", (32,))))
LM = {
    "model": {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "ffn": 32},
    "steps": 2,
    "batch_size": 2,
    "seconds": 6,
}
QUICK = {"replicates": 200}
SPLITS = ("train", "validation", *["test"] * 7)


def make_songs(codec: CodecIdentity, seconds: float = 13.0) -> list[TokenizedSong]:
    """One song each for training and validation, seven to test; 13 to 17 s."""
    result = []
    for i, split in enumerate(SPLITS):
        rng = np.random.default_rng(i)
        frames = round((seconds + i / 2) * codec.frame_rate)
        tokens = {
            s.name: np.stack([rng.integers(0, size, frames) for size in s.codebook_sizes]).astype(np.int32)
            for s in codec.streams
        }
        result.append(TokenizedSong(f"song{i}", split, tokens, identity=f"artist{i // 2}"))  # type: ignore[arg-type]
    return result


def setup(
    folder: Path, change: Callable[[list[TokenizedSong]], list[TokenizedSong]] = lambda s: s, **settings: Any
) -> Path:
    """Two packed corpora and the config that compares them; `change` is done to the second one's songs."""
    write_tokens(folder / "fine.parquet", FINE, make_songs(FINE))
    write_tokens(folder / "coarse.parquet", COARSE, change(make_songs(COARSE)))
    values = {
        "tokenizers": {"fine": "fine.parquet", "coarse": "coarse.parquet"}, "lm": LM, "seeds": [0, 1], "intervals": QUICK,
        **settings,
    }  # fmt: skip
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


class Toy:
    """Stands for training: `fine` costs half of uniform bits, `coarse` all of them, whatever the songs; counts its calls."""

    def __init__(self, share: float = 0.5) -> None:
        self.runs: list[str] = []
        self.lasts: dict[str, set[int | None]] = {"whole": set(), "windows": set()}
        self.share = share

    def __call__(self, run: ModelRun) -> Scorer:
        self.runs.append(f"{run.tokenizer} {run.protocol_name} {run.config.seed}")
        share = self.share if run.tokenizer == "fine" else 1.0

        def score(songs: Sequence[TokenizedSong], last: int | None = None) -> list[SongScore]:
            self.lasts["windows" if any("@" in song.id for song in songs) else "whole"].add(last)
            found = []
            for song in songs:
                for k in run.protocol.scored:
                    column = run.protocol.codec.columns[k]
                    codes = song.tokens[column.stream][column.codebook][run.protocol.prefix :]
                    bits = np.full(len(codes), share * math.log2(column.size), np.float32)
                    ranks = np.zeros(len(codes), np.int32)
                    found.append(SongScore(song.id, column.stream, column.codebook, column.size, bits, ranks, codes))
            return found

        return score


ALL = {"corruption": {"shifts": [1.0], "ratios": [0.5]}, "context": {"seconds": [5.0, 10.0]}}


def test_whole(tmp_path: Path) -> None:
    comparison = Comparison(setup(tmp_path, **ALL), tmp_path / "out")
    toy = Toy()
    result = conduct(comparison, toy)
    assert len(toy.runs) == len(set(toy.runs)) == 2 * 2 * 2
    assert toy.lasts == {"whole": {None}, "windows": {round(2.5 * 25), round(2.5 * 12.5)}}, (
        "of windows the target alone"
    )
    for protocol in ("parallel", "vocals-to-accompaniment"):
        assert result.values[protocol]["fine"]["average.cnbpt"].value == pytest.approx(0.5)
        assert result.values[protocol]["coarse"]["average.cnbpt"].value == pytest.approx(1)
        gap = result.differences[protocol]["coarse"]["average.cnbpt"]
        assert (gap.value, gap.low, gap.high) == pytest.approx((0.5, 0.5, 0.5))
    assert result.values["parallel"]["coarse"]["total.cnbps"].value == pytest.approx(12.5 * 3)
    assert "vocals.cnbpt" not in result.values["vocals-to-accompaniment"]["fine"]
    assert [c.percent.value for c in result.costs["vocals-to-accompaniment"]["fine"]] == [0, 0, 0]
    assert [p.cnbpt.value for p in result.contexts["parallel"]["fine"]] == pytest.approx([0.5, 0.5])
    # 14 to 17 s of seven songs, in pieces of 6 s. What is left of the longest is 5 s of `fine`, but 4.96 s of `coarse`, so
    # neither is scored on it.
    assert result.songs == 7
    assert result.hours * 3600 == pytest.approx(7 * 12)
    written = {path.name for path in write(result, tmp_path / "out")}
    assert written == {
        "table.md", "table.json", "codebooks.png", "cnbpt-parallel.png", "cnbpt-vocals-to-accompaniment.png",
        "corruption-vocals-to-accompaniment.png", "context-parallel.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "out").glob("*.png"))
    told = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {path.name for path in outputs(comparison.config, tmp_path / "out")} == written
    assert set(told.pop("files")) == written - {"table.json"}
    assert told.pop("seal") and told == json.loads(json.dumps(as_json(result)))
    # The codes are drawn evenly, and each few times: frequencies tell nothing.
    assert all(0.95 < book["cnbpt_by_frequency"] < 1.3 for book in told["codebooks"])
    text = as_markdown(result)
    assert "| coarse | average | +0.500 [+0.500, +0.500]" in text
    assert "| coarse | 12.5 Hz, 16 + 8, 0.09 | vocals |" in text
    assert "Too few tokens for some codebooks" in text
    wider = result.config.intervals.model_copy(update={"level": 0.995})
    precise = replace(result, config=result.config.model_copy(update={"intervals": wider}))
    assert "In brackets 99.5% intervals over songs" in as_markdown(precise)


def test_trainings_of_one_tokenizer(tmp_path: Path) -> None:
    """Seed k of the language model learns from the kth training; values are means and intervals over both."""
    again = replace(FINE, hash="ef" * 32)
    path = setup(tmp_path, tokenizers={"fine": ["fine.parquet", "again.parquet"], "coarse": "coarse.parquet"})
    write_tokens(tmp_path / "again.parquet", again, make_songs(again))
    comparison = Comparison(path, tmp_path / "o")
    used = {(r.tokenizer, r.config.seed): r.corpus.identity.hash for r in comparison.runs}
    assert used == {
        ("fine", 0): FINE.hash,
        ("fine", 1): again.hash,
        ("coarse", 0): COARSE.hash,
        ("coarse", 1): COARSE.hash,
    }

    def easier_again(run: ModelRun) -> Scorer:
        return Toy(0.25 if run.corpus.identity.hash == again.hash else 0.5)(run)

    result = conduct(comparison, easier_again)
    cnbpt = result.values["parallel"]["fine"]["vocals.cnbpt"]
    assert cnbpt.value == pytest.approx(0.375) and cnbpt.low < 0.3 and cnbpt.high > 0.45
    assert "Trained once for each seed: fine." in as_markdown(result)


@pytest.mark.parametrize("paired", [True, False])
def test_differences_may_be_taken_seed_by_seed(tmp_path: Path, paired: bool) -> None:
    """What both tokenizers' trainings of a seed have in common falls out of the interval of their difference."""

    def each(run: ModelRun) -> Scorer:
        return Toy((0.5 if run.tokenizer == "fine" else 0.6) + 0.1 * run.config.seed)(replace(run, tokenizer="fine"))

    intervals = {**QUICK, "paired_seeds": paired}
    everyone = setup(tmp_path, intervals=intervals, groups={"everyone": [f"song{i}" for i in range(len(SPLITS))]})
    result = conduct(Comparison(everyone, tmp_path / "out"), each)
    for differences in (result.differences["parallel"], result.groups["parallel"]["everyone"].differences):
        gap = differences["coarse"]["average.cnbpt"]
        assert gap.value == pytest.approx(0.1)
        assert (gap.high - gap.low < 1e-6) == paired
    assert ("paired over songs and seeds;" in as_markdown(result)) == paired


def test_every_training_has_the_same_songs(tmp_path: Path) -> None:
    """Also where the files have the same name, in folders of their own."""
    again = replace(FINE, hash="ef" * 32)
    path = setup(tmp_path, tokenizers={"fine": ["fine.parquet", "b/coarse.parquet"], "coarse": "coarse.parquet"})
    (tmp_path / "b").mkdir()
    write_tokens(tmp_path / "b" / "coarse.parquet", again, make_songs(again)[:-1])
    with pytest.raises(MetricError, match=r"\(fine, training 2\) lacks song 'song8'"):
        Comparison(path, tmp_path / "o")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["fine.parquet"], "1 files of tokens for 2 seeds"),
        (["fine.parquet", "fine.parquet"], "two of its files are of the same training"),
        (["fine.parquet", "coarse.parquet"], "other codebooks or frames than"),
    ],
)
def test_trainings_that_are_not_of_one_tokenizer(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Comparison(setup(tmp_path, tokenizers={"fine": files}), tmp_path / "o")


@pytest.mark.parametrize("mismatch", [True, False])
def test_little_to_show(tmp_path: Path, mismatch: bool) -> None:
    """One tokenizer, one protocol, hardly a corruption: tables and pictures of little are still tables and pictures."""
    settings = {
        "tokenizers": {"coarse": "coarse.parquet"}, "seeds": [0], "protocols": ["accompaniment-to-vocals"],
        "corruption": {"shifts": [], "ratios": [], "mismatch": mismatch},
    }  # fmt: skip
    result = conduct(Comparison(setup(tmp_path, **settings), tmp_path / "out"), Toy())
    names = {path.name for path in write(result, tmp_path / "out")}
    assert len(names) == 4 + mismatch and ("corruption-accompaniment-to-vocals.png" in names) == mismatch
    assert ("mismatch" in as_markdown(result)) == mismatch
    assert "Against" not in as_markdown(result)


def test_the_same_moments_for_every_codec() -> None:
    rows = [Row("a", "test", "", "a", 0, 71.9), Row("b", "train", "", "b", 0, 90), Row("c", "test", "", "c", 0, 4.9)]
    assert [tuple(m) for m in moments(rows, "test", 30, 5)] == [(0, 0, 30), (0, 30, 60), (0, 60, 71.9)]
    assert [tuple(m) for m in moments(rows, "test", 30, 12)] == [(0, 0, 30), (0, 30, 60)]


def test_resumes(tmp_path: Path) -> None:
    path, out = setup(tmp_path, **ALL), tmp_path / "out"
    toy = Toy()

    def stop(run: ModelRun) -> Scorer:
        if len(toy.runs) == 3:
            raise KeyboardInterrupt
        return toy(run)

    with pytest.raises(KeyboardInterrupt):
        conduct(Comparison(path, out), stop)
    first = next(iter(sorted(out.rglob("scores.safetensors"))))
    before = first.stat().st_mtime_ns
    again = Toy()
    told: list[str] = []
    result = conduct(Comparison(path, out), again, told.append)
    assert not set(toy.runs) & set(again.runs)
    assert len(toy.runs) + len(again.runs) == 8
    assert first.stat().st_mtime_ns == before
    assert told[0] == "1/8 fine, parallel, seed 0: done"
    # Nothing is left to do, and nothing is trained; the result is the same to the last bit.
    assert as_json(conduct(Comparison(path, out), lambda _: pytest.fail("trained again"))) == as_json(result)
    # Scores that were changed since are made again, by the model that is there.
    data = bytearray(first.read_bytes())
    data[-2] ^= 1
    first.write_bytes(data)
    mended = Toy()
    assert as_json(conduct(Comparison(path, out), mended)) == as_json(result) and len(mended.runs) == 1
    # Another seed adds its runs and keeps the others.
    more = Toy()
    conduct(Comparison(path, out, ["seeds=[0, 1, 2]"]), more)
    assert {run[-1] for run in more.runs} == {"2"}
    # Other corruptions are scored by the models that are there.
    other = Toy()
    conduct(Comparison(path, out, ["corruption.ratios=[0.5, 0.9]"]), other)
    assert {run.split()[1] for run in other.runs} == {"vocals-to-accompaniment"}


def test_another_tokenizer_may_change_what_is_scored(tmp_path: Path) -> None:
    """Beside `coarse`, `fine` has another piece to be scored: its kept scores are of other moments, and are made again; the models
    stay."""
    path = setup(tmp_path, seeds=[0], protocols=["parallel"])
    both = yaml.safe_load(path.read_text())

    def result(out: str, *names: str) -> Any:
        path.write_text(yaml.safe_dump({**both, "tokenizers": {name: both["tokenizers"][name] for name in names}}))
        return as_json(conduct(Comparison(path, tmp_path / out), Toy()))

    assert result("out", "fine")["hours"] > result("new", "fine", "coarse")["hours"]
    assert result("out", "fine", "coarse") == result("new", "fine", "coarse")


def test_refuses_a_folder_with_other_settings(tmp_path: Path) -> None:
    path, out = setup(tmp_path), tmp_path / "out"
    conduct(Comparison(path, out), Toy())
    with pytest.raises(
        ConfigError, match=r"fine/parallel/seed-0: was run with steps = 2, the config says 3; .* constant"
    ):
        conduct(Comparison(path, out, ["lm.steps=3"]), Toy())
    with pytest.raises(ConfigError, match="was run with checkpoint = best, the config says last"):
        conduct(Comparison(path, out, ["checkpoint=last"]), Toy())
    conduct(
        Comparison(path, out, ["lm.threads=1", "lm.cache=shards"]), lambda _: pytest.fail("trained again")
    )  # changes nothing
    write_tokens(tmp_path / "coarse.parquet", COARSE, make_songs(COARSE)[::-1])
    write_tokens(tmp_path / "fine.parquet", FINE, make_songs(FINE)[::-1])
    with pytest.raises(ConfigError, match="was run with tokens = "):
        conduct(Comparison(path, out), Toy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:-1], r"coarse.parquet \(coarse\) lacks song 'song8' \(test\), which fine has"),
        (lambda s: [*s, replace(s[0], id="new")], r"fine.parquet \(fine\) lacks song 'new' \(train\), which coarse has"),
        (lambda s: [replace(s[0], split="test"), *s[1:]], "song 'song0': its split is 'train' in fine and 'test' in coarse"),
        (lambda s: [replace(s[0], identity="x"), *s[1:]], "'song0': its identity is 'artist0' in fine and 'x' in coarse"),
        (
            lambda s: [*s[:2], replace(s[2], tokens={n: c[:, :-3] for n, c in s[2].tokens.items()}), *s[3:]],
            "song 'song2': its duration is 14.000 s in fine and 13.760 s in coarse",
        ),
        (lambda s: [s[1], s[0], *s[2:]], "song 0 is 'song0' in fine and 'song1' in coarse; pack in the same order"),
    ],
)  # fmt: skip
def test_refuses_unequal_corpora(
    tmp_path: Path, change: Callable[[list[TokenizedSong]], list[TokenizedSong]], message: str
) -> None:
    with pytest.raises(MetricError, match=message):
        Comparison(setup(tmp_path, change), tmp_path / "out")


def test_durations_may_round(tmp_path: Path) -> None:
    """By a frame of each codec, 0.12 s here; what is compared is what both have. More is another song."""

    def longer(frames: int) -> Callable[[list[TokenizedSong]], list[TokenizedSong]]:
        pad = ((0, 0), (0, frames))
        return lambda songs: [replace(s, tokens={n: np.pad(c, pad) for n, c in s.tokens.items()}) for s in songs]

    rows = Comparison(setup(tmp_path, longer(1)), tmp_path / "out").rows
    assert [row.seconds for row in rows] == [song.tokens["vocals"].shape[1] / 25 for song in make_songs(FINE)]
    with pytest.raises(MetricError, match=r"'song1': its duration is 13\.520 s in fine and 13\.680 s in coarse"):
        Comparison(setup(tmp_path, longer(2)), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"tokenizers": {"fine": {"corpus": "fine.parquet", "steps": 9}, "coarse": "coarse.parquet"}},
            "'fine' has its own 'steps'; settings are held constant, put them under 'lm'",
        ),
        ({"tokenizers": {"a/b": "fine.parquet"}}, "'a/b' cannot name a folder"),
        ({"lm": {**LM, "seed": 3}}, "lm.seed follows from tokenizers, protocols and seeds"),
        ({"lm": {**LM, "stepz": 3}}, "comparison.yaml: lm: unknown key 'stepz'; did you mean 'steps'"),
        ({"reference": "mine"}, "reference 'mine' is none of the tokenizers: fine, coarse"),
        ({"protocols": ["serial"]}, "protocol 'serial' is unknown"),
        ({"protocols": ["vocals-to-drums"]}, "'drums': fine abababababab has the streams vocals, accompaniment"),
        ({"protocols": ["parallel", "parallel"]}, "protocols: 'parallel' comes twice"),
        ({"protocols": ["parallel"], "corruption": {}}, "corruption needs a protocol with a source"),
        (
            {"protocols": ["vocals-to-accompaniment"], "context": {}},
            "context.protocol 'parallel' is none of the protocols",
        ),
        ({"context": {"seconds": [2, 5]}}, "target 2.5 s is longer than the shortest context, 2 s"),
        ({"context": {"seconds": []}}, "context.seconds"),
        (
            {"context": {"seconds": [4, 5], "protocol": "vocals-to-accompaniment"}},
            "context 4 s: a prefix of 2 s leaves less than the target of 2.5 s",
        ),
        ({"intervals": {"seed": -1}}, "intervals.seed"),
        ({"corruption": {"seed": -1}}, "corruption.seed"),
        ({"seads": [1]}, "unknown key 'seads'; did you mean 'seeds'"),
        ({"lm": {**LM, "shortest": 1.0}}, "a prefix of 2 s leaves nothing of the shortest piece, 1 s"),
    ],
)
def test_refuses_bad_configs(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Comparison(setup(tmp_path, **settings), tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"intervals": {"level": 0.995}},
            r"the evaluation has 7 songs of split 'test'.* 99\.5% interval needs at least 9",
        ),
        ({"intervals": {"over": "identities"}}, "the evaluation has 4 identities .* a 95% interval needs at least 6"),
        ({"corruption": {"shifts": [4.1], "ratios": []}}, "corruption has 0 songs"),
        ({"context": {"seconds": [5, 16]}}, "context has 3 songs"),
    ],
)
def test_refuses_too_few_songs_before_training(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MetricError, match=message):
        Comparison(setup(tmp_path, **settings), tmp_path / "out")


def test_a_score_on_what_was_learned_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(MetricError, match="songs of split 'train'"):  # the small corpus has one of them
        Comparison(setup(tmp_path, split="train"), tmp_path / "out")
    assert "split 'train': songs are scored that the models learn from" in caplog.text


def test_missing_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fine.parquet: no songs of split 'validation'"):
        path = setup(tmp_path, lambda songs: [songs[0], *songs[2:]])
        write_tokens(tmp_path / "fine.parquet", FINE, [s for s in make_songs(FINE) if s.split != "validation"])
        Comparison(path, tmp_path / "out")


def test_trains_for_real_from_the_command_line(tmp_path: Path) -> None:
    """Two tokenizers, one seed, a model of one layer for two steps; then nothing is left to do."""
    pytest.importorskip("transformers")
    path = setup(tmp_path, seeds=[0], protocols=["vocals-to-accompaniment"], corruption={"shifts": [2], "ratios": []})
    out = tmp_path / "out"
    command = ["eval", "lm", str(path), "-o", str(out)]
    dry = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.output
    found = json.loads(dry.stdout)
    assert [run["todo"] for run in found["runs"]] == [["scores", "corruption/shift-2-s", "corruption/mismatch"]] * 2
    minutes = [run["core_minutes"] for run in found["runs"]]
    assert min(minutes) > 0 and found["core_minutes"] == pytest.approx(sum(minutes))
    assert not out.exists()
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)["values"]["vocals-to-accompaniment"]
    # Two steps: hardly better than uniform, and every interval holds its value.
    for name in ("fine", "coarse"):
        value, low, high = values[name]["average.cnbpt"]
        assert 0.9 < low <= value <= high < 1.2
    assert (out / "table.md").read_text().startswith("# Comparison of tokenizers")
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert dry.stdout.count(": done") == 2 and "in all 0.0 minutes of a core" in dry.stdout
    wrong = CliRunner().invoke(app, [*command, "--set", "lm.lr=1"])
    assert wrong.exit_code == 1
    assert "was run with lr = 0.0001, the config says 1.0" in wrong.stderr


def half(run: ModelRun) -> Scorer:
    """`Toy` for other processes, and something to say."""
    print(f"{run.tokenizer} {run.config.seed} in {os.getpid()}", flush=True)
    return Toy()(run)


def failing(run: ModelRun) -> Scorer:
    """The first run fails at once; the others take their time, and leave a trace."""
    if run.tokenizer == "fine" and run.config.seed == 0:
        raise ConfigError("broken")
    time.sleep(0.5)
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "begun").touch()
    return Toy()(run)


def dying(run: ModelRun) -> Scorer:
    os._exit(9)


def test_side_by_side(tmp_path: Path) -> None:
    """In two processes everything is as in one; each run keeps its own log."""
    path, told = setup(tmp_path, seeds=[0], **ALL), []
    alone = as_json(conduct(Comparison(path, tmp_path / "alone"), half))
    out = tmp_path / "out"
    result = conduct(Comparison(path, out), half, told.append, workers=2)
    assert as_json(result) == alone
    logs = [file.read_text().split() for file in sorted(out.rglob("log.txt"))]
    assert len(logs) == 4
    assert all(int(log[-1]) != os.getpid() for log in logs)
    assert told[-1].endswith(" s, 0 to go")
    assert conduct(Comparison(path, out), failing, workers=2).songs == 7, "nothing is left to do"


def test_an_error_begins_no_other_run(tmp_path: Path) -> None:
    out, told = tmp_path / "out", list[str]()
    comparison = Comparison(setup(tmp_path, seeds=[0, 1, 2], protocols=["parallel"]), out)
    place = r"1/6 fine, parallel, seed 0 \(log: .*fine/parallel/seed-0/log.txt\)"
    with pytest.raises(ConfigError, match=f"{place}: broken"):
        conduct(comparison, failing, told.append, workers=2)
    assert "ConfigError: broken" in (out / "runs/fine/parallel/seed-0/log.txt").read_text()
    time.sleep(1)
    begun, finished = (len(list(out.rglob(name))) for name in ("begun", "scores.safetensors"))
    # The one beside it was let finish; on a busy machine a second may have begun before the error was there.
    assert 1 <= begun == finished <= 2
    with pytest.raises(DuoTokError, match="its process died, as when memory runs out; take fewer --workers"):
        conduct(Comparison(tmp_path / "comparison.yaml", tmp_path / "dead"), dying, workers=2)


def test_groups_of_songs(tmp_path: Path) -> None:
    """A group has the figures that its songs have alone; together all groups have every song."""

    def named(songs: list[TokenizedSong]) -> list[TokenizedSong]:
        return [replace(s, id=f"{'real' if i % 2 else 'made'}/{s.id}") for i, s in enumerate(songs)]

    def uneven(run: ModelRun) -> Scorer:
        def score(songs: Sequence[TokenizedSong], last: int | None = None) -> list[SongScore]:
            real = [Toy(0.75)(run)([song]) if song.id.startswith("real") else Toy(0.5)(run)([song]) for song in songs]
            return [score for of_song in real for score in of_song]

        return score

    groups = {"recordings": ["real"], "all": ["real", "made"]}
    path = setup(tmp_path, named, groups=groups, intervals={**QUICK, "level": 0.7}, tokens="sub")
    (tmp_path / "sub").mkdir()
    write_tokens(tmp_path / "sub" / "fine.parquet", FINE, named(make_songs(FINE)))
    (tmp_path / "coarse.parquet").rename(tmp_path / "sub" / "coarse.parquet")
    result = conduct(Comparison(path, tmp_path / "out"), uneven)
    found = result.groups["parallel"]
    assert [group.songs for group in found.values()] == [3, 7]
    assert found["recordings"].values["fine"]["average.cnbpt"].value == pytest.approx(0.75)
    assert found["recordings"].differences["coarse"]["average.cnbpt"].value == pytest.approx(0.25)
    assert found["all"].values["fine"] == result.values["parallel"]["fine"]
    text = as_markdown(result)
    assert "recordings: cnBPT of 3 songs | against fine" in text
    assert "| coarse | 1.000 [1.000, 1.000] | +0.250 [+0.250, +0.250] |" in text
    with pytest.raises(MetricError, match=r"group 'none' \(nowhere\) has 0 songs"):
        Comparison(path, tmp_path / "out", ["groups={none: [nowhere]}"])


def test_a_codec_of_the_mix_is_compared_by_the_average(tmp_path: Path) -> None:
    """The table against the reference was empty, and so were the groups."""
    mix = CodecIdentity("mix", "ef" * 32, 50.0, 48_000, (Stream("mix", (64,)),))
    path = setup(tmp_path, protocols=["parallel"], groups={"all": [f"song{i}" for i in range(9)]})
    write_tokens(tmp_path / "coarse.parquet", mix, make_songs(mix))
    text = as_markdown(conduct(Comparison(path, tmp_path / "out"), Toy()))
    assert "| coarse | average | +0.500 [+0.500, +0.500] |" in text
    assert "| coarse | 1.000 [1.000, 1.000] | +0.500 [+0.500, +0.500] |" in text


def test_scorer_keeps_songs_whole(tmp_path: Path) -> None:
    """What was cut to 6 s is scored as one piece, whatever its frames were rounded to."""
    pytest.importorskip("transformers")
    comparison = Comparison(setup(tmp_path, seeds=[0], protocols=["parallel"]), tmp_path / "out")
    run = comparison.runs[1]
    songs = comparison.tasks(run)["scores"]()
    scores = train_and_score(run)(songs)
    assert [(s.song, len(s.bits)) for s in scores if s.codebook == 0 and s.stream == "vocals"] == [
        (song.id, song.frames) for song in songs
    ]


def test_a_run_by_time_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counted as trained as soon as it had made `steps`, which such a run does not look at."""
    pytest.importorskip("transformers")
    lm = {**LM, "steps": 1, "minutes": 30}
    run = Comparison(setup(tmp_path, seeds=[0], protocols=["parallel"], lm=lm), tmp_path / "out").runs[0]
    engine.train(LMStage(run.config, run.corpus), run.folder, stop_after=2)
    called: list[Path] = []
    monkeypatch.setattr(engine, "train", lambda _, folder: called.append(folder))
    train_and_score(run)
    assert called == [run.folder]


def test_a_token_file_may_be_named_like_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow takes a relative `a:b` for a file system of that name."""
    codec = CodecIdentity("tiny", "ab" * 32, 25.0, 48_000, (Stream("mix", (20,)),))
    song = TokenizedSong("one", "train", {"mix": np.zeros((1, 50), np.int32)}, identity="one")
    write_tokens(tmp_path / "file:x.parquet", codec, [song])
    monkeypatch.chdir(tmp_path)
    assert [(row.id, row.seconds) for row in rows_of(TokenCorpus("file:x.parquet"))] == [("one", 2.0)]
