"""A user's mistake is one line on stderr and an exit code for every benchmark, never a traceback."""

from __future__ import annotations

import argparse
import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.test_benchmarks import NAMES

from benchmarks import calling
from duotok.errors import DuoTokError

MISTAKES = {
    DuoTokError("song.wav: is\nno sound; name another"): "error: song.wav: is no sound; name another",
    FileNotFoundError(2, "No such file or directory", "/nonexist"): "error: /nonexist: No such file or directory",
    ModuleNotFoundError("No module named 'taming'", name="taming.modules"): "this needs taming.modules",
    KeyboardInterrupt(): "130",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_tells_a_mistake_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = importlib.import_module(f"benchmarks.{name}").main
    for mistake, told in MISTAKES.items():

        def parse(*_: object, error: BaseException = mistake) -> None:
            raise error

        for way in ("parse_args", "parse_intermixed_args"):
            monkeypatch.setattr(argparse.ArgumentParser, way, parse)
        with pytest.raises(SystemExit) as left:
            main()
        assert told in str(left.value.code) and "\n" not in str(left.value.code)


def test_what_is_no_mistake_of_a_user_keeps_its_traceback() -> None:
    for error in (ZeroDivisionError(), BrokenPipeError(), ModuleNotFoundError(name="duotok.nothing")):

        def main(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            calling.mistakes_in_one_line(main)()
    assert calling.mistakes_in_one_line(lambda: 3)() == 3


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("alignment --audio /nonexist", "/nonexist: no such folder"),
        ("bestrq_targets --mels /nonexist", "/nonexist: no *mel*.npy"),
        ("bulk speed /nonexist --turns 1 --workers 1", "/nonexist: cannot be listed"),
        ("codebook_start --runs /nonexist", "/nonexist/data/shards: no shards"),
        ("codes /nonexist", "error: /nonexist: no such folder"),
        ("codes --data /nonexist", "/nonexist/shards: no shards"),
        ("comb --model nope", "nope: no such bundle"),
        ("comb --notes 0 --seconds 1", "argument --notes: 0: give a number above 0"),
        ("comb --notes -5", "argument --notes: -5: give"),
        ("comb --seconds nan", "argument --seconds: nan: give"),
        ("comb --seconds 1", "--seconds 1: give 2 or more"),
        ("comb --notes 440 30000", "--notes 30000: give less than"),
        ("comb --notes 10 --partials 2000", "--notes 10: its 2000 partials"),
        ("comb --steps 0", "argument --steps: 0: give a whole number, 1 or more"),
        ("controls jitter /nonexist --share 2 -o out", "argument --share: 2: give a number from 0 to 1"),
        ("effects curves /nonexist -o out.png", "error: /nonexist: no run"),
        ("encode --seconds 0", "argument --seconds: 0: give"),
        ("encode --seconds 0.01", "--seconds 0.01: give 1 or more"),
        ("encode --device nope", "device 'nope': not usable here"),
        ("faults no-such-fault", "no-such-fault: no fault"),
        ("fidelity --audio /nonexist", "/nonexist: no such folder"),
        ("fidelity --groups chant", "argument --groups: invalid choice: 'chant'"),
        ("fidelity --steps 0", "argument --steps: 0: give"),
        ("fidelity --sampler nope", "argument --sampler: invalid choice: 'nope'"),
        ("generation --presets nope", "argument --presets: invalid choice: 'nope'"),
        ("gpu --device cpu -o /dev/null/x.json", "/dev/null/x.json: cannot be written"),
        ("gpu --device cpu --model nope", "nope: no such bundle"),
        ("head_loss --device nope", "device 'nope': not usable here"),
        ("head_loss --dtype nn", "argument --dtype: invalid choice: 'nn'"),
        ("int8 --repeat -1", "argument --repeat: -1: give a whole number, 0 or more"),
        ("lm_training --presets nope", "argument --presets: invalid choice: 'nope'"),
        ("loader --steps 0", "argument --steps: 0: give"),
        ("mel_statistics --data /nonexist", "/nonexist/shards: no shards"),
        ("published --simvq /nonexist", "argument --simvq: /nonexist: no such folder"),
        ("published --json file", "--ear-vae"),
        ("scale plan --reading 3 --encoding 3 --devices 0", "argument --devices: 0: give a whole number, 1 or more"),
        ("segments", "--speed"),
        ("separator mini --audio /nonexist", "/nonexist: no such folder"),
        ("silent_songs --model nope", "nope: no such bundle"),
        ("speed --vocals one.wav", "give both, --vocals and --accompaniment"),
        ("stereo --limit 0", "argument --limit: 0: give"),
        ("training --mini nope", "nope: no"),
        ("training --repeat 0", "argument --repeat: 0: give"),
        ("two_nodes --run run --timeout 0 train stage1", "argument --timeout: 0: give"),
        ("windows --context -1", "argument --context: -1: give"),
    ],
)  # fmt: skip
def test_mistakes(
    line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(line)
    monkeypatch.setattr(sys, "argv", [f"benchmarks.{name}", *words])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"benchmarks.{name}").main()
    captured = capsys.readouterr()
    # argparse ends with 2, after a line of usage; all else is the message as the exit code, which Python prints and makes a 1.
    assert told in (captured.err.splitlines()[-1] if left.value.code == 2 else str(left.value.code))
    assert not captured.out and not list(tmp_path.iterdir()), "nothing half-written"


def test_a_mistake_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.two_nodes", "--run", "/dev/null/run", "train"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith(
        "error: /dev/null/run: Not a directory; a file is in the way; "
    )
