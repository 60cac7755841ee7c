"""WhisperX and FunASR through our runner, in environments whose tools are fakes (tests/lyrics/fake_tools.py)."""

from __future__ import annotations

import ast
import os
import stat
import sys
from pathlib import Path

import pytest
import torch
from tests.lyrics.fake_tools import calls, environment

from duotok.audio.io import write
from duotok.errors import AudioError, ConfigError
from duotok.lyrics.transcribers import RUNNER, ToolConfig, Transcriber, interpreter, route
from duotok.lyrics.types import LyricsError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the fake environments are shell scripts")


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song.wav"
    write(path, torch.sin(torch.arange(48_000) * 0.05).repeat(2, 1) * 0.5, 48_000)
    return path


def test_whisperx_is_loaded_once_and_hears_16_khz_mono(tmp_path: Path, song: Path):
    env = environment(tmp_path / "env", "whisperx")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu")) as tool:
        lyrics = tool.transcribe(song, "en")
        assert [(w.text, w.start, w.end) for w in lyrics.words] == [("Hello", 0.1, 0.5), ("2014!", 0.5, 0.9)]
        assert (lyrics.language, lyrics.source, tool.version) == ("en", "whisperx", "3.8.6")
        assert "without times" in lyrics.notes[0]
        tool.transcribe(song, start=0.25, seconds=0.5)
    assert calls(env) == [
        ["load", "large-v3", "cpu", "int8"], ["transcribe", 16000, "float32", "en"], ["aligner", "en"],
        ["transcribe", 8000, "float32", None],
    ]  # fmt: skip


def test_funasr_hears_chinese(tmp_path: Path, song: Path):
    env = environment(tmp_path / "env", "funasr")
    with Transcriber(ToolConfig("funasr", str(env / "bin" / "python"), device="cpu")) as tool:
        lyrics = tool.transcribe(song, "zh")
    assert [(w.text, w.start) for w in lyrics.words] == [("你", 0.1), ("好。", 0.3)]
    assert (lyrics.language, lyrics.source) == ("zh", "funasr")
    assert calls(env)[0] == ["load", "paraformer-zh", "fsmn-vad", "ct-punc", "cpu"]


def test_a_language_without_aligner_has_line_times_only(tmp_path: Path, song: Path):
    env = environment(tmp_path / "env", "whisperx", language="xx")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu")) as tool:
        lyrics = tool.transcribe(song)
    assert lyrics.timed and not any(w.timed for w in lyrics.words)


def test_where_nothing_is_sung_there_are_no_lines(tmp_path: Path, song: Path):
    env = environment(tmp_path / "env", "whisperx", do="silence")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu")) as tool:
        assert tool.transcribe(song).lines == ()


def test_a_recording_that_fails_costs_no_other(tmp_path: Path, song: Path):
    env = environment(tmp_path / "env", "whisperx", do="fail")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu")) as tool:
        for _ in range(2):
            with pytest.raises(LyricsError, match=r"song.wav: whisperx failed \(RuntimeError: CUDA out of memory\)"):
                tool.transcribe(song)
    assert [c[0] for c in calls(env)] == ["load", "transcribe", "transcribe"]
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu")) as tool, pytest.raises(AudioError):
        tool.transcribe(tmp_path / "none.wav")


def test_a_tool_that_dies_says_its_last_words_and_is_started_again(tmp_path: Path, song: Path):
    env = environment(tmp_path / "env", "whisperx", do="die")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu")) as tool:
        for _ in range(2):
            with pytest.raises(LyricsError, match=r"ended with code 9 \(.*Segmentation fault\)"):
                tool.transcribe(song)
    assert [c[0] for c in calls(env)].count("load") == 2


def test_timeouts(tmp_path: Path, song: Path):
    env = environment(tmp_path / "hangs", "whisperx", do="hang")
    told = pytest.raises(LyricsError, match=r"no answer within 0.3 s .*; give it more with --timeout")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu", timeout=0.3)) as tool, told:
        tool.transcribe(song)
    env = environment(tmp_path / "slow", "whisperx", do="slow")
    told = pytest.raises(ConfigError, match="does not start")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu", start_timeout=0.5)) as tool, told:
        tool.transcribe(song)


def test_a_missing_tool_says_how_to_install_it(tmp_path: Path, song: Path):
    env = environment(tmp_path / "env", "funasr")
    told = pytest.raises(ConfigError, match=r"whisperx cannot be used there .*bin/python -m pip install whisperx")
    with Transcriber(ToolConfig("whisperx", str(env), device="cpu")) as tool, told:
        tool.transcribe(song)


def test_a_missing_environment_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no such Python; make one: python3 -m venv ENV"):
        Transcriber(ToolConfig("whisperx", str(tmp_path / "none" / "python")))
    with pytest.raises(ConfigError, match=r"no Python environment \(no bin/python in it\)"):
        Transcriber(ToolConfig("funasr", str(tmp_path)))
    with pytest.raises(ConfigError, match="transcriber 'siri' is unknown; there are whisperx, funasr"):
        Transcriber(ToolConfig("siri", sys.executable))


def test_what_is_no_python_is_told(tmp_path: Path, song: Path):
    with (
        Transcriber(ToolConfig("whisperx", "/bin/echo")) as tool,
        pytest.raises(ConfigError, match="no answer of our runner"),
    ):
        tool.transcribe(song)


def test_a_script_of_the_environment_names_its_python(tmp_path: Path):
    env = environment(tmp_path / "env", "whisperx")
    script = env / "bin" / "whisperx"
    script.write_text(f"#!{env}/bin/python\nimport whisperx\n")
    script.chmod(0o755)
    assert interpreter(str(script)) == env / "bin" / "python" == interpreter(str(env))
    plain = tmp_path / "notes.txt"
    plain.write_text("hello")
    plain.chmod(stat.S_IRUSR)
    if os.geteuid():
        with pytest.raises(ConfigError, match="cannot be executed"):
            interpreter(str(plain))


@pytest.mark.parametrize(("language", "chosen", "tool"), [("zh", "auto", "funasr"), ("en", "auto", "whisperx"),
                                                          ("", "auto", "whisperx"), ("zh", "whisperx", "whisperx")])  # fmt: skip
def test_routes(language: str, chosen: str, tool: str):
    assert route(language, chosen) == tool


def test_the_runner_needs_nothing_of_ours():
    tree = ast.parse(RUNNER.read_text(encoding="utf-8"))
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else
            [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert names <= sys.stdlib_module_names
