"""`duotok generate` as a user types it: from nothing, going on, one track for the other, and everything that is refused."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from tests.lm.small import TINY, song
from tests.tiny import song as sound
from tests.tiny import tiny_bundle
from typer.testing import CliRunner

from duotok.audio import io
from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.errors import AudioError
from duotok.lm.corpus import write_tokens
from duotok.lm.saved import export_lm
from duotok.lm.stage import LMStage, LMStageConfig
from duotok.lm.streams import codec_identity
from duotok.tokens import DualTokens, load
from duotok.tracks import TRACKS
from duotok.training.engine import train


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate", *(str(a) for a in arguments)], catch_exceptions=False)


def facts(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(scope="module")
def models(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Language models of every kind over the tiny bundle's tokens, hardly trained."""
    place = tmp_path_factory.mktemp("models")
    codec = codec_identity(DuoTok.from_pretrained(bundle))
    write_tokens(
        place / "tokens.parquet", codec,
        [song(f"{split}{i}", 60, codec, split) for split in ("train", "validation") for i in range(2)],  # type: ignore[arg-type]
    )  # fmt: skip
    kinds = {"parallel": {}, "vocals": {"source": "vocals", "target": "accompaniment"}}
    found = {}
    for name, streams in kinds.items():
        values = {
            "steps": 1, "batch_size": 1, "lr": 1e-2, "warmup": 1, "model": TINY.model_dump(), "device": "cpu", "seconds": 1.2,
            "data": place / "tokens.parquet", "shortest": 0.4, "prefix_seconds": 0.2, "save_every": 1, "held_out_pieces": 1,
            "protocol": "track_to_track" if streams else "parallel", **streams,
        }  # fmt: skip
        train(LMStage(LMStageConfig.model_validate(values)), place / name)
        found[name] = place / name
    return found


@pytest.fixture
def given(bundle: Path, tmp_path: Path) -> Path:
    """A token file of 30 frames, cut inside the last one."""
    codec = DuoTok.from_pretrained(bundle)
    codes = [torch.randint(codec.codebook_sizes[0], (30,)) for _ in TRACKS]
    tokens = DualTokens.from_codes(
        *codes, n_samples=30 * 1920 - 7, gain_db=3.5, model_id=codec.model_id, model_hash=codec.model_hash,
        codebook_sizes=codec.codebook_sizes,
    )  # fmt: skip
    tokens.save(tmp_path / "given.duotok")
    return tmp_path / "given.duotok"


def test_from_nothing(models: dict[str, Path], bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "new.wav"
    common = ("--lm", models["parallel"], "--model", bundle, "--seconds", 2, "--json", "--seed", 3)
    (told,) = facts(run(*common, "-o", out))
    assert names(out.parent) == ["new.duotok", "new.wav"]
    tokens = load(out.with_suffix(".duotok"))
    assert (tokens.n_frames, tokens.seconds, tokens.gain_db, tokens.model_id) == (50, 2.0, 0.0, "tiny")
    assert (told["seconds"], told["seed"], told["ended"], told["output"]) == (2.0, 3, False, str(out))
    assert (io.probe(out).rate, io.probe(out).n_samples) == (48_000, 96_000)
    (again,) = facts(run(*common, "-o", tmp_path / "again.duotok"))
    assert load(tmp_path / "again.duotok") == tokens and "output" not in again


def test_a_sound_that_cannot_be_written_costs_no_tokens(
    models: dict[str, Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("--lm", models["parallel"], "--model", bundle, "--seconds", 1, "--seed", 3)
    assert run(*common, "-o", tmp_path / "whole.wav").exit_code == 0
    out = tmp_path / "a folder" / "new.wav"
    with monkeypatch.context() as patched:

        def full(*_: object, **__: object) -> None:
            raise AudioError(f"{out}: cannot be written (No space left on device); choose another place")

        patched.setattr(DuoTok, "decode_to", full)
        done = run(*common, "-o", out)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == 1 and names(out.parent) == ["new.duotok"]
    command = shlex.split(line.partition("the tokens are kept, later: duotok ")[2])
    assert CliRunner().invoke(app, command).exit_code == 0
    assert torch.equal(io.read(out), io.read(tmp_path / "whole.wav"))


def test_candidates_and_an_exported_folder(models: dict[str, Path], bundle: Path, tmp_path: Path) -> None:
    lm = export_lm(models["parallel"], tmp_path / "lm")
    out = tmp_path / "out"
    told = facts(
        run("--lm", lm, "--model", bundle, "--seconds", 1, "--count", 3, "--seed", 5, "-o", out / "x.duotok", "--json")
    )
    assert names(out) == ["x.seed-5.duotok", "x.seed-6.duotok", "x.seed-7.duotok"]
    assert [line["seed"] for line in told] == [5, 6, 7]
    run("--lm", lm, "--model", bundle, "--seconds", 1, "--seed", 6, "-o", out / "six.duotok")
    assert load(out / "six.duotok") == load(out / "x.seed-6.duotok") != load(out / "x.seed-5.duotok")


def test_a_song_goes_on(models: dict[str, Path], bundle: Path, given: Path, tmp_path: Path) -> None:
    common = ("--lm", models["parallel"], "--model", bundle, "--continue", given, "--seconds", 3)
    out = tmp_path / "longer.duotok"
    assert run(*common, "-o", out).exit_code == 0
    made, before = load(out), load(given)
    assert made.n_frames == 75 and torch.equal(made.stack()[:, :30], before.stack())
    assert (made.gain_db, made.source, made.n_samples) == (3.5, "given.duotok", 75 * 1920)
    assert run(*common, "--keep", 0.4, "-o", out, "--force").exit_code == 0
    assert torch.equal(load(out).stack()[:, :10], before.stack()[:, :10])
    assert not torch.equal(load(out).stack()[:, 10:30], before.stack()[:, 10:])


@pytest.mark.parametrize("kind", ["parallel", "vocals"])
def test_an_accompaniment_for_given_vocals(
    kind: str, models: dict[str, Path], bundle: Path, given: Path, tmp_path: Path
) -> None:
    common = ("--lm", models[kind], "--model", bundle, "--vocals", given, "--keep", 0.2)
    assert run(*common, "-o", tmp_path / "band.flac").exit_code == 0
    made, before = load(tmp_path / "band.duotok"), load(given)
    assert torch.equal(made.vocals, before.vocals)
    assert torch.equal(made.accompaniment[:5], before.accompaniment[:5])
    assert not torch.equal(made.accompaniment[5:], before.accompaniment[5:])
    assert made.n_samples == before.n_samples == io.probe(tmp_path / "band.flac").n_samples
    assert run(*common, "--seconds", 0.8, "-o", tmp_path / "short.duotok").exit_code == 0
    assert load(tmp_path / "short.duotok").n_samples == 20 * 1920


def test_sound_is_encoded_first(models: dict[str, Path], bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    io.write(path, sound(1.5)[:, :70_001], 48_000)
    codec = DuoTok.from_pretrained(bundle)
    for options, wanted in (([], codec.encode(path)), (["--stem"], codec.encode(path, vocals=path))):
        out = tmp_path / "band.duotok"
        result = run("--lm", models["vocals"], "--model", bundle, "--vocals", path, *options, "-o", out, "--force")
        assert result.exit_code == 0, result.output
        made = load(out)
        assert torch.equal(made.vocals, wanted.vocals)
        assert (made.n_samples, made.gain_db, made.source) == (70_001, wanted.gain_db, "song.wav")


def test_encoding_a_song_leaves_what_was_generated_for_it(
    models: dict[str, Path], bundle: Path, tmp_path: Path
) -> None:
    """Generated tokens bear the song's name and lie where its own would."""
    song = tmp_path / "song.wav"
    io.write(song, sound(1.5)[:, :70_001], 48_000)
    made, told = tmp_path / "song.duotok", {
        "--vocals": ("vocals", "generate: accompaniment for the vocals of song.wav, seed 0"),
        "--continue": ("parallel", "generate: song.wav goes on, seed 0"),
    }  # fmt: skip
    for option, (model, record) in told.items():
        assert run("--lm", models[model], "--model", bundle, option, song, "-o", made, "--force").exit_code == 0
        before = made.read_bytes()
        assert [role for role in load(made).sources if role != "separator"] == ["edit 1", "mix"]
        assert load(made).sources["edit 1"].name == record
        encoded = CliRunner().invoke(app, ["encode", str(song), "--model", str(bundle), "--force"])
        assert encoded.exit_code == 0 and made.read_bytes() == before, encoded.stderr
        assert (tmp_path / "song.wav.duotok").is_file()
    assert (
        run("--lm", models["parallel"], "--model", bundle, "--seconds", 1, "-o", tmp_path / "new.duotok").exit_code == 0
    )
    assert load(tmp_path / "new.duotok").sources["edit 1"].name == "generate: from nothing, seed 0"


def test_dry_run(models: dict[str, Path], bundle: Path, given: Path, tmp_path: Path) -> None:
    common = ("--lm", models["parallel"], "--model", bundle, "--dry-run", "--json")
    before = names(tmp_path)
    (told,) = facts(run(*common, "--seconds", 3, "--count", 2, "-o", tmp_path / "x.wav", "--continue", given))
    assert told["would make"] == [str(tmp_path / f"x.seed-{i}.wav") for i in (0, 1)]
    assert (told["seconds"], told["given_seconds"], told["protocol"]) == (3.0, 1.2, "parallel")
    path = tmp_path.parent / "dry.wav"
    io.write(path, sound(1.5)[:, :70_001], 44_100)
    (told,) = facts(run(*common, "-o", tmp_path / "x.wav", "--vocals", path))
    assert told["seconds"] == 1.6  # 40 frames
    assert names(tmp_path) == before


def test_what_is_refused(models: dict[str, Path], bundle: Path, given: Path, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", seed=1)
    whole = load(given)
    replace(whole, model_hash="ab" * 32).save(tmp_path / "foreign.duotok")
    io.write(tmp_path / "song.wav", sound(0.5), 48_000)
    before = names(tmp_path)
    parallel, follows = ["--lm", models["parallel"]], ["--lm", models["vocals"]]
    out, of = ["-o", tmp_path / "x.wav"], ["--model", bundle]
    cases: list[tuple[list[object], str]] = [
        ([*parallel, "--model", other, *out], "learned the tokens of tiny"),
        ([*parallel, *of, *out, "--continue", tmp_path / "foreign.duotok"], "tokens of tiny (abababab), this is tiny"),
        ([*parallel, *of, *out, "--continue", given, "--seconds", 1], "1.2 s of it stay, which leaves nothing to make of 1 s"),
        ([*parallel, *of, *out, "--continue", given, "--keep", 1.3], "--keep 1.3 s, but the song is 1.20 s long"),
        ([*parallel, *of, *out, "--vocals", given, "--seconds", 2], "--seconds 2, but its vocals are 1.20 s long"),
        ([*parallel, *of, *out, "--vocals", given, "--keep", 1.2], "leaves nothing to make of 1.2 s"),
        ([*parallel, *of, *out, "--vocals", given, "--stem"], "holds both tracks; leave --stem away"),
        ([*parallel, *of, *out, "--vocals", given, "--continue", given], "three different tasks; give one"),
        ([*parallel, *of, *out, "--seed", 2**32 - 1, "--count", 2], "the last candidate would have seed 4294967296"),
        ([*parallel, *of, *out, "--keep", 1], "--keep is about a given song"),
        ([*parallel, *of, *out, "--continue", tmp_path / "song.wav", "--stem"], "--stem is about the file of --vocals"),
        ([*follows, *of, *out], "makes accompaniment for given vocals; give --vocals FILE"),
        ([*follows, *of, *out, "--accompaniment", given], "makes accompaniment for given vocals"),
        ([*follows, *of, *out, "--vocals", tmp_path / "none.duotok"], "none.duotok: cannot be read"),
        ([*parallel, *of, "-o", tmp_path / "x.m4a"], "cannot write '.m4a'; name it NAME.wav, NAME.flac, NAME.mp3"),
        ([*parallel, *of, "-o", given], "given.duotok: is already there; --force replaces it"),
        ([*parallel, *of, "-o", given.with_suffix(".wav")], "given.duotok: is already there"),
        ([*parallel, *of, *out, "--temperature", -1], "temperature -1 must be 0"),
        ([*parallel, *of, *out, "--seconds", 1, "--at-least", 1.5, "--dry-run"], "could never end the song"),
        ([*parallel, *of, *out, "--top-p", 0], "top_p 0 must be above 0"),
        (["--lm", tmp_path / "nothing", *of, *out], "nothing: no such folder; name the folder of a training run"),
        (["--lm", bundle, *of, *out], "tiny: no checkpoint there"),
        ([*parallel, "--model", "nowhere", *out], "nowhere: no such bundle"),
    ]  # fmt: skip
    for arguments, message in cases:
        result = run(*arguments)
        assert result.exit_code == 1, arguments
        assert len(result.stderr.strip().splitlines()) == 1 and message in result.stderr, result.stderr
    for option in ("--seconds", "--keep", "--at-least"):
        assert run(*parallel, *of, *out, option, "inf").exit_code == 2
    assert names(tmp_path) == before


def test_tokens_outside_the_codebook_are_refused(
    models: dict[str, Path], bundle: Path, given: Path, tmp_path: Path
) -> None:
    """A file that claims a larger codebook than the bundle has, by the same hash."""
    whole = load(given)
    too_high = replace(whole, vocals=whole.vocals + whole.codebook_sizes[0], codebook_sizes=(40_000, 40_000))
    too_high.save(tmp_path / "high.duotok")
    result = run(
        "--lm", models["parallel"], "--model", bundle, "--continue", tmp_path / "high.duotok", "-o", tmp_path / "x.wav"
    )
    assert result.exit_code == 1 and "codebooks of (40000, 40000)" in result.stderr


def test_help_teaches() -> None:
    text = run("--help").stdout
    assert "duotok generate --lm runs/lm -o new.wav" in text and "--at-least" in text


def test_a_long_song_goes_on_by_default(
    models: dict[str, Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duotok.cli.generate.SECONDS", 2.0)  # stands for 30 s
    codec = DuoTok.from_pretrained(bundle)
    codes = [torch.randint(codec.codebook_sizes[0], (90,)) for _ in TRACKS]  # longer than that
    DualTokens.from_codes(
        *codes, model_id=codec.model_id, model_hash=codec.model_hash, codebook_sizes=codec.codebook_sizes
    ).save(tmp_path / "long.duotok")
    common = ("--lm", models["parallel"], "--model", bundle, "--continue", tmp_path / "long.duotok")
    assert run(*common, "-o", tmp_path / "all.duotok").exit_code == 0
    assert load(tmp_path / "all.duotok").n_frames == 140
    assert torch.equal(load(tmp_path / "all.duotok").vocals[:90], codes[0])
    assert run(*common, "--keep", 1, "-o", tmp_path / "kept.duotok").exit_code == 0
    assert load(tmp_path / "kept.duotok").n_frames == 75


def test_a_folder_and_a_line_to_read(models: dict[str, Path], bundle: Path, tmp_path: Path) -> None:
    common = ("--lm", models["parallel"], "--model", bundle, "--seconds", 1)
    done = run(*common, "-o", f"{tmp_path / 'new'}/", "--seed", 3)
    assert done.exit_code == 0 and names(tmp_path / "new") == ["song.seed-3.duotok", "song.seed-3.wav"]
    assert (
        f"{tmp_path / 'new' / 'song.seed-3.wav'}: 1.0 s, seed 3, tokens in " in done.stderr
        and "model_hash" not in done.stderr
    )
    done = run(*common, "-o", tmp_path / "new", "--count", 2)
    assert done.exit_code == 0 and len(names(tmp_path / "new")) == 6
    assert run(*common, "-o", tmp_path / "new", "--seed", 3).exit_code == 1  # is there already


def test_a_drone_is_told(
    models: dict[str, Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from duotok.lm import generate as made

    real = made.generate

    def held(*arguments: object, **options: object) -> list[made.GeneratedTokens]:
        return [
            made.GeneratedTokens(one.seed, {name: 0 * codes for name, codes in one.tokens.items()}, one.ended)
            for one in real(*arguments, **options)  # type: ignore[arg-type]
        ]

    common = ("--lm", models["parallel"], "--model", bundle, "--seconds", 2, "-o")
    assert "one and the same code" not in run(*common, tmp_path / "a.duotok").stderr
    monkeypatch.setattr(made, "generate", held)
    said = run(*common, tmp_path / "b.duotok", "--temperature", 0).stderr
    assert (
        "one and the same code is 100% of its vocals and 100% of its accompaniment" in said
        and "--temperature 1" in said
    )
    said = run(*common, tmp_path / "c.duotok").stderr
    assert "another --seed" in said and "--temperature" not in said, "it is 1 already"
