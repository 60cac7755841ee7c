"""The transcribe step: own lyrics first, words without times by the lyric head, the rest by a tool in its environment."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from click.testing import Result
from tests.lyrics.fake_tools import calls, environment
from tests.tiny import song, tiny_bundle
from typer.testing import CliRunner

from duotok.audio.io import write
from duotok.cli.main import app
from duotok.corpora.base import lyrics_excerpt
from duotok.data import transcribe as step
from duotok.data.jobs import LocalEngine, Results, read_ledger
from duotok.data.transcribe import (
    LEDGER,
    TranscriptionOptions,
    pending_transcribe,
    run_transcribe,
    summary,
    transcribe_units,
)
from duotok.errors import ConfigError
from duotok.lyrics.transcribers import ToolConfig
from duotok.lyrics.types import Lyrics
from duotok.records import Recording, write_table

posix = pytest.mark.skipif(os.name != "posix", reason="the fake environments are shell scripts")
READ_ONLY = TranscriptionOptions(bundle="")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    write(path, song(4.0), 48_000)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle whose lyric head has the characters' classes; it knows nothing."""
    from duotok.model.config import TokenizerConfig

    tokenizer = TokenizerConfig.preset("tiny", n_mels=128, mask_bins=128, mask_bands=(32,) * 4, vocabulary=28)
    return tiny_bundle(tmp_path_factory.mktemp("bundle"), tokenizer=tokenizer)


def recording(wav: Path, name: str = "c/a", lyrics: object = "", **more: object) -> Recording:
    first = Recording(name, "c", "song", "train", name, {"mix": str(wav)}, lyrics=str(lyrics), seconds=4.0)
    return dataclasses.replace(first, **more)  # type: ignore[arg-type]


def file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def words_of(work: Path, name: str = "c/a") -> Lyrics:
    return Lyrics.from_json(json.loads((work / "lyrics" / f"{name}.json").read_text(encoding="utf-8")))


def run(
    work: Path, *recordings: Recording, options: TranscriptionOptions = READ_ONLY, workers: int = 1, retry: bool = False
) -> Results:
    return run_transcribe(recordings, work, options, LocalEngine(workers), retry)


def test_own_lyrics_are_read_mended_and_kept(tmp_path: Path, audio: Path):
    timed = file(tmp_path, "a.lrc", "[00:01.00]Hello you\n[00:03.00]Bye\n[00:09.00]Beyond\n")
    damaged = tmp_path / "b.lrc"
    damaged.write_bytes(bytes(range(256)))
    all_ = [
        recording(audio, "c/a", timed, language="en"), recording(audio, "c/b", damaged),
        recording(audio, "c/c", tmp_path / "none.lrc"), recording(audio, "c/d"),
        recording(audio, "c/e", timed, kind="speech"),
    ]  # fmt: skip
    results = run(tmp_path / "work", *all_)
    assert list(results.done) == ["c/a"] and list(results.failed) == ["c/b", "c/c"]
    assert "no text in UTF-8" in results.failed["c/b"] and "none.lrc: cannot be read" in results.failed["c/c"]
    lyrics = words_of(tmp_path / "work")
    assert [(x.text, x.start, x.end) for x in lyrics.lines] == [("Hello you", 1.0, 3.0), ("Bye", 3.0, 4.0)]
    assert lyrics.language == "en" and (found := results.done["c/a"])["source"] == "lrc"
    assert found["lines"] == found["timed lines"] == 2 and "beyond the recording" in found["notes"][0]
    assert summary(results)["with times"] == 1
    assert {unit: entry.error == "" for unit, entry in read_ledger(tmp_path / "work" / LEDGER).items()} == {
        "c/a": True, "c/b": False, "c/c": False,
    }  # fmt: skip
    again = run(tmp_path / "work", *all_)
    assert again.kept == 1 and list(again.failed) == ["c/b", "c/c"]


def test_a_changed_or_lost_file_is_done_again_and_old_words_do_not_outlive_damage(tmp_path: Path, audio: Path):
    path, work = file(tmp_path, "a.lrc", "[00:01.00]One\n"), tmp_path / "work"
    one = recording(audio, lyrics=path)
    run(work, one)
    (work / "lyrics/c/a.json").unlink()
    assert len(pending_transcribe([one], work, READ_ONLY).todo) == 1
    assert run(work, one).kept == 0 and words_of(work).text == "One"
    path.write_text("[00:01.00]Another\n")
    run(work, one)
    assert words_of(work).text == "Another"
    path.write_bytes(b"\0\0\0")
    assert list(run(work, one).failed) == ["c/a"] and not (work / "lyrics/c/a.json").exists()


def test_words_do_not_outlive_the_file_that_was_taken_away(tmp_path: Path, audio: Path):
    lyrics, work = file(tmp_path, "a.lrc", "[00:01.00]One two\n[00:02.00]"), tmp_path / "work"
    heard = work / "lyrics" / "c" / "heard.json"
    run(work, recording(audio, lyrics=lyrics))
    assert words_of(work).text == "One two"
    row = {"unit": "c/heard", "stamp": "", "ok": True, "result": {"source": "whisperx"}}
    with (work / "ledger/transcribe.jsonl").open("a") as ledger:
        ledger.write(json.dumps(row) + "\n")
    heard.write_text("{}")
    run(work, recording(audio), recording(audio, "c/heard"))
    assert [path.name for path in heard.parent.iterdir()] == ["heard.json"]
    run(work, recording(audio, lyrics=lyrics))
    assert words_of(work).text == "One two"


def test_an_excerpt_gets_its_own_words(tmp_path: Path, audio: Path):
    path = file(tmp_path, "a.lrc", "[00:01.00]Before\n[00:11.00]Inside\n[00:12.00]\n[00:30.00]After\n")
    run(tmp_path / "work", recording(audio, lyrics=lyrics_excerpt(path, 10.0, 14.0)))
    assert [(x.text, x.start, x.end) for x in words_of(tmp_path / "work").lines] == [("Inside", 1.0, 2.0)]
    run(tmp_path / "work", recording(audio, lyrics=path, seconds=None, start=0.5, stop=3.0))
    assert [(x.text, x.start) for x in words_of(tmp_path / "work").lines] == [("Before", 0.5)]


def test_a_head_that_knows_nothing_gives_no_times(tmp_path: Path, audio: Path, bundle: Path):
    path = file(tmp_path, "a.txt", "Hello you\nbye\n")
    options = TranscriptionOptions(bundle=str(bundle))
    results = run(tmp_path / "work", recording(audio, lyrics=path), options=options)
    found = results.done["c/a"]
    assert found["timed words"] == 0 and abs(found["margin"]) < 0.5 and found["source"] == "text"
    assert "lyric head does not recognize the words" in found["notes"][-1]
    assert words_of(tmp_path / "work").text == "Hello you\nbye"


@pytest.mark.parametrize("stems", [("mix",), ("vocals",), ("vocals", "accompaniment"), ("mix", "vocals")])
def test_any_alignment_is_taken_with_a_low_margin(tmp_path: Path, audio: Path, bundle: Path, stems: tuple[str, ...]):
    path = file(tmp_path, "a.txt", "Hello you\nbye\n")
    options = TranscriptionOptions(bundle=str(bundle), margin=-1e9)
    one = recording(audio, lyrics=path, audio={stem: str(audio) for stem in stems})
    found = run(tmp_path / "work", one, options=options).done["c/a"]
    assert (found["source"], found["timed words"], found["timed lines"]) == ("aligned", 3, 2)
    lyrics = words_of(tmp_path / "work")
    assert lyrics.timed and (lyrics.lines[-1].end or 9) <= 4.0


def test_a_text_that_does_not_fit_is_kept_without_times(tmp_path: Path, audio: Path, bundle: Path):
    path = file(tmp_path, "a.txt", "far too many words for four seconds " * 20)
    found = run(
        tmp_path / "work", recording(audio, lyrics=path), options=TranscriptionOptions(bundle=str(bundle), margin=-1e9)
    )
    assert "do not fit" in found.done["c/a"]["notes"][-1] and not words_of(tmp_path / "work").timed


def test_the_head_reads_log_probabilities_of_any_part(audio: Path, bundle: Path):
    from duotok.data.lyric_head import LyricHead

    head = LyricHead(str(bundle))
    whole = head.log_probs({"mix": audio}, torch.arange(29))
    assert whole.shape == (100, 29) and torch.allclose(whole.exp().sum(-1), torch.ones(100), atol=1e-4)
    some = head.log_probs({"mix": audio}, torch.tensor([3, 28]))
    assert torch.equal(some, whole[:, [3, 28]])
    assert head.log_probs({"mix": audio}, torch.tensor([28]), start=1.0, seconds=2.0).shape == (50, 1)


@posix
def test_languages_go_to_their_tools(tmp_path: Path, audio: Path):
    env = environment(tmp_path / "env", "whisperx", "funasr")
    tools = {name: ToolConfig(name, str(env), device="cpu") for name in ("whisperx", "funasr")}
    options = TranscriptionOptions("auto", tools, bundle="")
    vocals = {"mix": str(tmp_path / "no.wav"), "vocals": str(audio)}
    all_ = [
        recording(audio, "c/english", language="en"), recording(audio, "c/chinese", language="zh"),
        recording(audio, "c/music", kind="music"), recording(audio, "c/sung", kind="music", audio=vocals),
        recording(audio, "c/band", kind="instrumental"),
    ]  # fmt: skip
    results = run(tmp_path / "work", *all_, options=options)
    assert {name: row["source"] for name, row in results.done.items()} == {
        "c/english": "whisperx", "c/chinese": "funasr", "c/sung": "whisperx",
    }  # fmt: skip
    assert words_of(tmp_path / "work", "c/chinese").text == "你好。"
    assert [c[0] for c in calls(env)].count("load") == 2 and step._running == {}


@posix
def test_chinese_that_nobody_announced_is_heard_by_funasr(tmp_path: Path, audio: Path):
    env = environment(tmp_path / "env", "whisperx", "funasr", language="zh")
    tools = {name: ToolConfig(name, str(env), device="cpu") for name in ("whisperx", "funasr")}
    results = run(tmp_path / "work", recording(audio), options=TranscriptionOptions("auto", tools, bundle=""))
    assert results.done["c/a"]["source"] == "funasr" and words_of(tmp_path / "work").language == "zh"


@posix
def test_a_tool_in_worker_processes(tmp_path: Path, audio: Path):
    env = environment(tmp_path / "env", "whisperx")
    options = TranscriptionOptions("whisperx", {"whisperx": ToolConfig("whisperx", str(env), device="cpu")}, bundle="")
    results = run(tmp_path / "work", recording(audio, "c/a"), recording(audio, "c/b"), options=options, workers=2)
    assert list(results.done) == ["c/a", "c/b"] and not results.failed


@posix
def test_failing_recordings_are_named_and_tried_again_on_request(tmp_path: Path, audio: Path):
    env = environment(tmp_path / "env", "whisperx", do="fail")
    options = TranscriptionOptions("whisperx", {"whisperx": ToolConfig("whisperx", str(env), device="cpu")}, bundle="")
    one = recording(audio)
    assert "CUDA out of memory" in run(tmp_path / "work", one, options=options).failed["c/a"]
    assert [c[0] for c in calls(env)].count("transcribe") == 1
    run(tmp_path / "work", one, options=options)
    assert [c[0] for c in calls(env)].count("transcribe") == 1
    run(tmp_path / "work", one, options=options, retry=True)
    assert [c[0] for c in calls(env)].count("transcribe") == 2


def test_wrong_options_are_told_before_anything_is_done(tmp_path: Path):
    with pytest.raises(ConfigError, match="transcriber 'siri' is unknown; choose auto, whisperx, funasr, none"):
        TranscriptionOptions("siri")
    with pytest.raises(ConfigError, match="whisperx needs an environment of its own; name it with --python whisperx="):
        TranscriptionOptions("auto")
    with pytest.raises(ConfigError, match="no such Python"):
        TranscriptionOptions("funasr", {"funasr": ToolConfig("funasr", str(tmp_path / "none"))})
    with pytest.raises(ConfigError, match="kind 'noise' is unknown"):
        TranscriptionOptions(kinds=("noise",))


def test_units_do_not_depend_on_where_things_are(tmp_path: Path, audio: Path):
    path = file(tmp_path, "a.lrc", "[00:01.00]One\n")
    one = recording(audio, lyrics=path)
    here, there = (transcribe_units([one], tmp_path / name, READ_ONLY)[0] for name in ("a", "b"))
    assert here.stamp == there.stamp and here.place != there.place
    other = transcribe_units([one], tmp_path / "a", TranscriptionOptions(bundle="mini"))[0]
    assert other.stamp != here.stamp


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["data", "transcribe", *map(str, arguments)], catch_exceptions=False)


def test_the_command(tmp_path: Path, audio: Path):
    work, path = tmp_path / "work", file(tmp_path, "a.lrc", "[00:01.00]Hello you\n")
    write_table(work / "recordings.parquet", [recording(audio, lyrics=path), recording(audio, "c/b")], Recording)
    assert command("--work", work, "--dry-run").stdout.strip() == "to do: 1, kept: 0, failed: 0"
    assert not (work / "lyrics").exists()
    facts = json.loads(command("--work", work, "--json").stdout)
    assert (facts["done"], facts["words"], facts["sources"]) == (1, 2, {"lrc": 1})
    told = command("--work", work).stderr
    assert "1 recordings with lyrics (1 by an earlier run): lrc 1" in told and "2 words, 0 with times" in told


@posix
def test_the_command_with_a_tool(tmp_path: Path, audio: Path):
    work, env = tmp_path / "work", environment(tmp_path / "env", "whisperx")
    write_table(work / "recordings.parquet", [recording(audio)], Recording)
    done = command("--work", work, "--transcriber", "whisperx", "--python", env, "--model", "tiny", "--device", "cpu")
    assert done.exit_code == 0 and "whisperx 1" in done.stderr
    assert calls(env)[0] == ["load", "tiny", "cpu", "int8"]


@pytest.mark.parametrize(("arguments", "problem"), [
    (["--transcriber", "siri"], "transcriber 'siri' is unknown"),
    (["--transcriber", "whisperx"], "name it with --python whisperx=ENV/bin/python"),
    (["--transcriber", "auto", "--python", "/x"], "say for which tool: --python whisperx=/x"),
    (["--kinds", "noise"], "kind 'noise' is unknown"),
])  # fmt: skip
def test_the_command_tells_what_is_wrong_in_one_line(tmp_path: Path, audio: Path, arguments: list[str], problem: str):
    write_table(tmp_path / "recordings.parquet", [recording(audio)], Recording)
    refused = command("--work", tmp_path, *arguments)
    assert refused.exit_code == 1 and problem in refused.stderr and len(refused.stderr.splitlines()) == 1
