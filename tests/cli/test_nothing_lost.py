"""What is there stays: other songs of one name, files of the user, odd names; what is left out is told."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from tests.forked import DUOTOK, python
from tests.tiny import song
from typer.testing import CliRunner

from duotok import editing
from duotok.audio import io
from duotok.cli import console
from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.seals import seal
from duotok.separation.separator import MiniSeparator
from duotok.tokens import DualTokens, load


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [os.fsdecode(a) if isinstance(a, bytes) else str(a) for a in arguments], input=stdin)  # type: ignore[arg-type]


def facts(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def encode(bundle: Path, *arguments: object) -> list[dict[str, object]]:
    result = run("encode", *arguments, "--model", bundle, "--json")
    assert result.exit_code == 0, result.stderr
    return facts(result)


def sung(path: Path, seed: int, seconds: float = 0.4) -> Path:
    io.write(path, song(seconds, seed=seed), 48_000)
    return path


def codes(path: Path) -> list[list[int]]:
    found: list[list[int]] = load(path).stack().tolist()
    return found


# -- songs ------------------------------------------------------------------------------------------------------------


def test_tokens_of_another_precision_are_not_done(bundle: Path, tmp_path: Path) -> None:
    path, out = sung(tmp_path / "a.wav", 1), tmp_path / "a.duotok"
    assert encode(bundle, path, "--precision", "bf16")[0]["status"] == "encoded"
    assert encode(bundle, path, "--precision", "bf16")[0]["status"] == "skipped"
    (said,) = encode(bundle, path)
    assert said["status"] == "encoded" and said["note"] == "those that were there were encoded in bf16"
    assert load(out).precision == "fp32" and encode(bundle, path)[0]["status"] == "skipped"
    replace(load(out), precision="").save(out)  # of an earlier DuoTok, which had no other unless it was asked for
    assert encode(bundle, path)[0]["status"] == "skipped"
    (said,) = encode(bundle, path, "--precision", "bf16")
    assert said["status"] == "encoded" and said["note"] == "those that were there do not say in which precision"


def test_what_duotok_wrote_is_no_song_unless_it_is_named(bundle: Path, tmp_path: Path) -> None:
    path, music = sung(tmp_path / "music/a.wav", 1), tmp_path / "music"
    encode(bundle, path, "-o", tmp_path / "a.duotok")
    assert (
        run("decode", tmp_path / "a.duotok", "-o", music / "b.flac", "--track", "all", "--model", bundle).exit_code == 0
    )
    assert run("separate", path, "-o", music / "stems", "--model", bundle).exit_code == 0
    DuoTok.from_pretrained(bundle).decode_to(music / "c.ogg", load(tmp_path / "a.duotok"), steps=1)
    result = run("encode", music, "-o", tmp_path / "out", "--model", bundle, "--json")
    assert [said["input"] for said in facts(result)] == [str(path)]
    assert "left out: 6 written by DuoTok (" in result.stderr
    (said,) = encode(bundle, music / "b.flac", "-o", tmp_path / "out")
    assert said["status"] == "encoded"
    alone = run("encode", music / "stems", "-o", tmp_path / "out", "--model", bundle)
    assert alone.exit_code == 1 and alone.stderr.count("\n") == 1
    assert (
        "no audio files in this folder but 2 written by DuoTok (" in alone.stderr and "files themselves" in alone.stderr
    )


def test_the_sound_of_tokens_of_an_earlier_duotok_is_theirs(bundle: Path, tmp_path: Path) -> None:
    """It was decoded from a file that named no precision; the song's tokens have been made again since."""
    path, out = sung(tmp_path / "a.wav", 1), tmp_path / "a.duotok"
    encode(bundle, path)
    made = load(out)
    replace(made, precision="").save(out)
    decode = ("decode", out, "-o", tmp_path / "b.wav", "--model", bundle, "--json")
    assert facts(run(*decode))[0]["status"] == "decoded"
    made.save(out)
    assert facts(run(*decode))[0]["status"] == "skipped"


def test_two_songs_of_one_name_both_get_their_tokens(bundle: Path, tmp_path: Path) -> None:
    one, two, out = sung(tmp_path / "al1/01.wav", 1), sung(tmp_path / "al2/01.wav", 2), tmp_path / "out"
    (first,), (second,) = encode(bundle, one, "-o", out), encode(bundle, two, "-o", out)
    assert first["status"] == second["status"] == "encoded" and first["output"] != second["output"]
    alone = [
        codes(Path(str(encode(bundle, path, "-o", tmp_path / f"{n}.duotok")[0]["output"])))
        for n, path in enumerate((one, two))
    ]
    assert [codes(Path(str(said["output"]))) for said in (first, second)] == alone and alone[0] != alone[1]
    again = [*encode(bundle, one, "-o", out), *encode(bundle, two, "-o", out)]
    assert [said["status"] for said in again] == ["skipped", "skipped"]
    assert [said["output"] for said in again] == [first["output"], second["output"]]
    assert len(list(out.iterdir())) == 2
    both = encode(bundle, one, two, "-o", tmp_path / "together")
    assert len({str(said["output"]) for said in both}) == 2 and len(list((tmp_path / "together").iterdir())) == 2


def test_another_file_of_one_stem_takes_no_place(bundle: Path, tmp_path: Path) -> None:
    wav, flac = sung(tmp_path / "a.wav", 1), sung(tmp_path / "a.flac", 2)
    encode(bundle, wav)
    (said,) = encode(bundle, flac)
    assert said["output"] == str(tmp_path / "a.flac.duotok")
    assert load(tmp_path / "a.duotok").source == "a.wav" and load(tmp_path / "a.flac.duotok").source == "a.flac"
    result = run("encode", flac, "-o", tmp_path / "a.duotok", "--model", bundle)
    assert result.exit_code == 1 and "another song (a.wav)" in result.stderr
    assert load(tmp_path / "a.duotok").source == "a.wav"


def test_a_song_that_has_changed_is_encoded_again(bundle: Path, tmp_path: Path) -> None:
    path = sung(tmp_path / "a.wav", 1)
    encode(bundle, path)
    before = codes(tmp_path / "a.duotok")
    times = path.stat()
    sung(path, 2)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time
    (said,) = encode(bundle, path)
    assert said["status"] == "encoded" and "changed" in str(said["note"]) and codes(tmp_path / "a.duotok") != before
    found = load(tmp_path / "a.duotok").sources["mix"]
    assert (found.name, found.bytes) == ("a.wav", path.stat().st_size) and len(found.sha256) == 64


def test_stems_model_and_windows_count(bundle: Path, tmp_path: Path) -> None:
    mix, voice, band = (sung(tmp_path / f"{n}.wav", n) for n in (1, 2, 3))
    out = tmp_path / "x.duotok"
    encode(bundle, mix, "-o", out)
    (said,) = encode(bundle, mix, "--vocals", voice, "-o", out)
    assert said["status"] == "encoded" and "other stems" in str(said["note"])
    assert encode(bundle, mix, "--vocals", voice, "-o", out)[0]["status"] == "skipped"
    sung(voice, 4)
    assert "vocals has changed" in str(encode(bundle, mix, "--vocals", voice, "-o", out)[0]["note"])
    other = Path(shutil.copytree(bundle, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["codec"]["window"] = 50
    (other / "config.json").write_text(json.dumps(seal(config)))
    assert "other windows" in str(encode(other, mix, "--vocals", voice, "-o", out)[0]["note"])
    assert band.is_file()


def other_separator(bundle: Path, folder: Path) -> Path:
    """The same tokenizer behind a separator of other weights."""
    model = DuoTok.from_pretrained(bundle)
    assert isinstance(model.separator, MiniSeparator)
    with torch.no_grad():
        next(model.separator.model.parameters()).mul_(1.5)
    return model.save_pretrained(folder)


def test_another_separator_counts(bundle: Path, tmp_path: Path) -> None:
    mix, out, other = sung(tmp_path / "in/a.wav", 1), tmp_path / "out", other_separator(bundle, tmp_path / "other")
    assert DuoTok.from_pretrained(bundle).model_hash == DuoTok.from_pretrained(other).model_hash
    encode(bundle, mix.parent, "-o", out)
    assert encode(bundle, mix.parent, "-o", out)[0]["status"] == "skipped"
    found = load(out / "a.duotok").sources["separator"]
    assert found.name == "MiniSeparator" and len(found.sha256) == 64
    (said,) = encode(other, mix.parent, "-o", out)
    assert said["status"] == "encoded" and "another separator" in str(said["note"])
    assert load(out / "a.duotok").sources["separator"].sha256 != found.sha256
    assert encode(other, mix.parent, "-o", out)[0]["status"] == "skipped"
    (said,) = encode(bundle, "--vocals", mix, "--accompaniment", mix, "-o", out / "a.duotok", "--force")
    (said,) = encode(other, mix, "-o", out / "a.duotok", "--force", "--dry-run")
    assert "other stems" in str(said["note"])


def test_tokens_that_do_not_say_which_separator_are_made_anew(bundle: Path, tmp_path: Path) -> None:
    path = sung(tmp_path / "a.wav", 1)
    encode(bundle, path)
    before = load(tmp_path / "a.duotok")
    old = {role: file for role, file in before.sources.items() if role != "separator"}
    replace(before, sources=old).save(tmp_path / "a.duotok")  # as an earlier DuoTok wrote it
    (said,) = encode(bundle, path)
    assert said["status"] == "encoded" and "do not say which separator" in str(said["note"])


def test_a_moved_library_is_done(bundle: Path, tmp_path: Path) -> None:
    sung(tmp_path / "old/a.wav", 1)
    encode(bundle, tmp_path / "old", "-o", tmp_path / "out")
    (tmp_path / "old").rename(tmp_path / "new")
    assert encode(bundle, tmp_path / "new", "-o", tmp_path / "out")[0]["status"] == "skipped"


# -- files of the user ------------------------------------------------------------------------------------------------


def test_encode_and_decode_replace_nothing_that_is_not_theirs(bundle: Path, tmp_path: Path) -> None:
    path = sung(tmp_path / "a.wav", 1)
    (tmp_path / "a.duotok").write_text("a letter")
    result = run("encode", path, "--model", bundle)
    assert result.exit_code == 1 and "no token file" in result.stderr and "--force" in result.stderr
    assert (tmp_path / "a.duotok").read_text() == "a letter"
    assert encode(bundle, path, "--force")[0]["status"] == "encoded"

    sound = path.read_bytes()
    for arguments in ([], ["--force"]):
        result = run("decode", tmp_path / "a.duotok", "-o", tmp_path, "--model", bundle, "--steps", 1, *arguments)
        assert (result.exit_code == 1) == (not arguments), result.stderr
        assert (path.read_bytes() == sound) == (not arguments)
    result = run("decode", tmp_path / "a.duotok", "-o", tmp_path, "--model", bundle, "--steps", 1)
    assert result.exit_code == 0 and "skipped" in result.stderr
    result = run("decode", tmp_path / "a.duotok", "-o", tmp_path, "--model", bundle, "--steps", 1, "--seed", 5)
    assert result.exit_code == 1 and "not made of these tokens by this model with these settings" in result.stderr


def test_an_edit_is_not_taken_for_the_tokens_of_its_song(bundle: Path, tmp_path: Path) -> None:
    path, edit = sung(tmp_path / "a.wav", 1), tmp_path / "out" / "a.duotok"
    encode(bundle, path, "-o", tmp_path / "whole.duotok")
    edit.parent.mkdir()
    editing.cut(load(tmp_path / "whole.duotok"), 0, 5).save(edit)
    mine = edit.read_bytes()
    result = run("encode", path, "-o", edit, "--model", bundle)
    assert result.exit_code == 1 and "holds an edit of a.wav; choose another name" in result.stderr
    (made,) = encode(bundle, path, "-o", edit.parent)
    assert made["note"] == "a.duotok holds an edit" and edit.read_bytes() == mine
    assert encode(bundle, path, "-o", edit.parent)[0]["status"] == "skipped"
    (made,) = encode(bundle, path, "-o", edit, "--force")
    assert made["note"] == "replaces an edit of a.wav" and codes(edit) == codes(tmp_path / "whole.duotok")


def test_the_sound_of_another_renderer_is_not_taken_for_that_of_these_weights(bundle: Path, tmp_path: Path) -> None:
    encode(bundle, sung(tmp_path / "a.wav", 1), "-o", tmp_path / "a.duotok")
    model = DuoTok.from_pretrained(bundle)
    for weights in model.dit("vocals").parameters():
        weights.data.mul_(0.5)
    model.save_pretrained(tmp_path / "trained")  # its tokens, model hash and name are the same
    words = ("decode", tmp_path / "a.duotok", "-o", tmp_path / "out.wav", "--steps", 1)
    assert run(*words, "--model", bundle).exit_code == 0
    result = run(*words, "--model", tmp_path / "trained")
    assert result.exit_code == 1 and "not made of these tokens by this model" in result.stderr


def test_an_input_is_never_an_output(bundle: Path, tmp_path: Path) -> None:
    path = sung(tmp_path / "a.wav", 1)
    os.link(path, tmp_path / "a.duotok")  # the same file by another name
    result = run("encode", path, "--force", "--model", bundle)
    assert result.exit_code == 1 and "is an input" in result.stderr
    assert io.read(path).shape[1] == round(0.4 * 48_000)


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_are_bytes(bundle: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9.wav")
    long = "é" * 119 + "x.wav"  # 243 bytes
    longest = "y" * 251 + ".wav"
    for n, name in enumerate((odd, long, longest, "zz.wav", "a:b.wav", "-.wav")):
        sung(tmp_path / "in" / "short.wav", n).rename(tmp_path / "in" / name)
    result = run("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle, "--json")
    assert result.exit_code == 0 and [said["status"] for said in facts(result)] == ["encoded"] * 6, result.output
    assert len(list((tmp_path / "out").iterdir())) == 6
    found = tmp_path / "out" / os.fsdecode(b"caf\xe9.duotok")
    assert load(found).source == "caf\\xe9.wav"
    again = run("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle)
    assert "6 skipped" in again.stderr
    result = run("decode", tmp_path / "out", "-o", tmp_path / "sound", "--model", bundle, "--steps", 1)
    assert result.exit_code == 0 and len(list((tmp_path / "sound").iterdir())) == 6, result.stderr


def test_no_file_ends_a_batch(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(3):
        sung(tmp_path / "in" / f"{n}.wav", n)
    real = DualTokens.save

    def fails(self: DualTokens, path: Path) -> None:
        if path.stem == "1":
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "no such thing")
        real(self, path)

    monkeypatch.setattr(DualTokens, "save", fails)
    result = run("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle, "--json")
    assert [said["status"] for said in facts(result)] == ["encoded", "failed", "encoded"]
    assert result.exit_code == 1 and "1.wav: UnicodeEncodeError" in result.stderr


# -- folders ----------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_told(bundle: Path, tmp_path: Path) -> None:
    sung(tmp_path / "elsewhere/b.wav", 2)
    sung(tmp_path / "in/a.wav", 1)
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "in")
    (tmp_path / "in/gone.wav").symlink_to(tmp_path / "nothing.wav")
    (tmp_path / "in/cover.jpg").touch()
    (tmp_path / "in/words.txt").touch()
    result = run("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle)
    assert result.exit_code == 0
    (told,) = [line for line in result.stderr.splitlines() if line.startswith("left out")]
    assert "1 linked folders, --follow-symlinks" in told and "linked" in told
    assert "2 of other kinds (.jpg 1, .txt 1)" in told and "1 links to nothing" in told
    result = run("encode", tmp_path / "in", "-o", tmp_path / "out", "--model", bundle, "--follow-symlinks")
    assert (tmp_path / "out/linked/b.duotok").is_file() and "there already" in result.stderr


# -- streams, processes, tracks ---------------------------------------------------------------------------------------


def test_standard_input_and_output(bundle: Path, tmp_path: Path) -> None:
    path = sung(tmp_path / "a.wav", 1)
    (said,) = encode(bundle, path)
    given = python(DUOTOK, "encode", "-", "-o", "-", "--model", bundle, stdin=path.read_bytes())
    assert given.returncode == 0, given.stderr
    (tmp_path / "piped.duotok").write_bytes(given.stdout)
    assert codes(tmp_path / "piped.duotok") == codes(Path(str(said["output"])))
    words = ("decode", "/dev/stdin", "-o", "-", "--format", "flac", "--steps", 1, "--model", bundle)
    done = python(DUOTOK, *words, stdin=given.stdout)
    (tmp_path / "piped.flac").write_bytes(done.stdout)
    assert io.probe(tmp_path / "piped.flac").n_samples == round(0.4 * 48_000)
    none = CliRunner().invoke(app, ["encode", "-", "-o", "-", "--model", str(bundle)], input=b"")
    assert none.exit_code == 1 and none.stdout == "" and "nothing came" in none.stderr
    assert run("encode", "-", "--model", bundle).exit_code == 1  # no name to give


def test_workers_do_the_same(bundle: Path, tmp_path: Path) -> None:
    for n in range(3):
        sung(tmp_path / "in" / f"{n}.wav", n)
    (tmp_path / "in/bad.wav").write_text("no sound")
    one = run("encode", tmp_path / "in", "-o", tmp_path / "one", "--model", bundle, "--threads", 1)
    two = run("encode", tmp_path / "in", "-o", tmp_path / "two", "--model", bundle, "--workers", 2)
    assert one.exit_code == two.exit_code == 1 and "3 encoded, 1 failed" in two.stderr
    for n in range(3):
        assert codes(tmp_path / "one" / f"{n}.duotok") == codes(tmp_path / "two" / f"{n}.duotok")


@pytest.mark.parametrize("ending", ["wav", "mp3", "ogg", "opus", "flac"])
def test_all_tracks_in_one_go(ending: str, bundle: Path, tmp_path: Path) -> None:
    encode(bundle, sung(tmp_path / "a.wav", 1, 1.0))
    out = tmp_path / f"x.{ending}"
    result = run("decode", tmp_path / "a.duotok", "-o", out, "--track", "all", "--model", bundle, "--steps", 1)
    assert result.exit_code == 0, result.stderr
    mix, voice, band = (
        io.read(tmp_path / name) for name in (out.name, f"x.vocals.{ending}", f"x.accompaniment.{ending}")
    )
    assert mix.shape == voice.shape == band.shape == (1, 48_000)
    if ending in ("wav", "flac"):
        assert float((mix - voice - band).abs().max()) < 1e-5


def test_the_tracks_of_the_longest_name_have_names(bundle: Path, tmp_path: Path) -> None:
    encode(bundle, sung(tmp_path / "a.wav", 1, 0.3))
    (tmp_path / "in").mkdir()
    for name in ("n" * 248, "é" * 123 + "xx"):  # with .duotok as long as a name may be
        (tmp_path / "in" / f"{name}.duotok").write_bytes((tmp_path / "a.duotok").read_bytes())
    again = ("decode", tmp_path / "in", "-o", tmp_path / "out", "--track", "all", "--model", bundle, "--steps", 1)
    for counts in ("2 decoded", "2 skipped"):
        done = run(*again)
        assert done.exit_code == 0 and counts in done.stderr, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_a_long_job_without_a_terminal_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.progress_bars(1) as bars, bars.file("song.wav") as advance:
        for minute in range(1, 4):
            advance(minute / 4 - 0.01)
            now[0] += 30
            advance(minute / 4)
            now[0] += 30
    assert capsys.readouterr().err.splitlines() == ["song.wav: 49%", "song.wav: 74%"]


def test_threads_leave_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(console.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(console.Path, "read_text", lambda _: "max 100000")
    found = []
    for busy in (0.0, 5.5, 40.0):
        monkeypatch.setattr(console.os, "getloadavg", lambda busy=busy: (busy, 0, 0))
        found.append(console.default_threads())
    assert found == [4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert console.default_threads() == 3
