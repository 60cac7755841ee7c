"""The report: self-contained, audible, complete; and the demo command around it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import soundfile
import torch
from tests.page_reader import Page
from tests.tiny import song, tiny_bundle
from typer.testing import CliRunner, Result

from duotok.audio.io import read, write
from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.demo import page as report_page
from duotok.demo import pictures, report
from duotok.errors import AudioError, DuoTokError
from duotok.tokens import DualTokens

RATE = 48_000
NAME = """"my" <script> & 'cö' 🎵 {{ 7 * 7 }}"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def made(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of a song of 3 s, made by the command."""
    folder = tmp_path_factory.mktemp("made")
    write(folder / f"{NAME}.wav", song(3.0), RATE)
    done = demo(folder / f"{NAME}.wav", "-o", folder / "out", "--model", bundle, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["page"] == str(folder / "out" / "index.html")
    return folder / "out"


def demo(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["demo", *map(str, arguments)])


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page((made / "index.html").read_text(encoding="utf-8"))


def test_page_needs_nothing_but_itself(page: Page, made: Path) -> None:
    text = (made / "index.html").read_text(encoding="utf-8")
    bare = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "http:" not in bare and "https:" not in bare and not re.search(r"""["'(=]//""", bare)
    assert "url(" not in bare and "@import" not in bare
    assert "{{" not in bare.replace("{{ 7 * 7 }}", "") and "{%" not in bare and "{#" not in bare


def test_sounds_inside_can_be_played(page: Page) -> None:
    sounds = list(page.data("audio"))
    assert len(sounds) == 9  # song and two tracks; before, after, and through Opus
    for data in sounds:
        audio, rate = soundfile.read(io.BytesIO(data))
        assert rate == RATE and abs(len(audio) - 3 * RATE) < 0.1 * RATE


def test_pictures_inside_are_pictures(page: Page) -> None:
    images = list(page.data("img"))
    assert len(images) == 12  # 6 mels, 2 strips, variety, 2 similarities, ranks
    assert all(data.startswith(b"\x89PNG\r\n") for data in images)


def test_names_are_escaped(page: Page, made: Path) -> None:
    assert page.text.startswith(f"{NAME} · DuoTok {NAME} ")
    assert page.count("script") == 2, "those of the page itself"
    assert json.loads((made / "facts.json").read_text())["song"] == NAME


def test_files_beside_the_page(made: Path) -> None:
    names = {p.name for p in made.iterdir()}
    sounds = {"original", "vocals", "accompaniment", "decoded.mix", "decoded.vocals", "decoded.accompaniment"}
    assert names == {"index.html", "facts.json", "song.duotok", "picture.png"} | {f"{name}.flac" for name in sounds}
    tokens = DualTokens.load(made / "song.duotok")
    assert tokens.n_samples == 3 * RATE
    for name in sounds:
        assert read(made / f"{name}.flac").shape[1] == 3 * RATE
    both = read(made / "decoded.vocals.flac", channels=1) + read(made / "decoded.accompaniment.flac", channels=1)
    assert torch.allclose(read(made / "decoded.mix.flac", channels=1), both, atol=1e-5)


def test_facts(made: Path, bundle: Path) -> None:
    facts = json.loads((made / "facts.json").read_text())
    assert facts["stems"] == "separated" and facts["seconds"] == 3.0
    assert facts["tokens"]["frames"] == 75
    assert facts["tokens"]["bits_per_second"] == 25 * 2 * 6  # two codebooks of 64
    assert facts["tokens"]["file_bytes"] == (made / "song.duotok").stat().st_size
    assert facts["model"]["hash"] == DuoTok.from_pretrained(bundle).model_hash
    for piece in ("vocals", "accompaniment", "mix"):
        assert 0 < facts["mel_distance"][piece]["duotok"] < 20
    assert facts["codes"]["vocals"]["tokens"] == 75
    assert set(facts["real_time_factor"]) == {"separation", "encoding", "decoding"}


def test_given_stems_are_not_separated(bundle: Path, tmp_path: Path) -> None:
    stems = {"vocals": song(1.0, seed=1), "accompaniment": 2.0 * song(1.0, seed=2)}
    for name, sound in stems.items():
        write(tmp_path / f"{name}.wav", sound, RATE)
    source = report.DemoSong(None, tmp_path / "vocals.wav", tmp_path / "accompaniment.wav")
    made = report.make(source, DuoTok.from_pretrained(bundle), report.DemoSettings(steps=1, seconds=0.8))
    assert made.true_stems and "separation" not in made.times
    assert torch.equal(made.sounds["vocals"], stems["vocals"][:, : round(0.8 * RATE)])
    assert made.tokens.n_samples == round(0.8 * RATE)
    assert made.full_seconds == pytest.approx(1.0)


def test_a_song_that_is_not_the_sum_of_its_stems_is_not_shown(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seed in (("song", 1), ("voice", 2), ("band", 3)):
        write(tmp_path / f"{name}.wav", song(0.5, seed=seed), RATE)
    source = report.DemoSong(*(tmp_path / f"{name}.wav" for name in ("song", "voice", "band")))
    made = report.make(source, DuoTok.from_pretrained(bundle), report.DemoSettings(steps=1))
    assert "song.wav: is not the sum of the two stems" in caplog.text
    assert torch.equal(made.sounds["mix"], made.sounds["vocals"] + made.sounds["accompaniment"])


def test_a_stem_of_another_song_is_refused(bundle: Path, tmp_path: Path) -> None:
    voice, band = song(1.0), 0.1 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(1))
    for name, sound in (("mix", voice + band), ("own", voice), ("late", voice.roll(2000, 1))):
        write(tmp_path / f"{name}.wav", sound, RATE)
    model, settings = DuoTok.from_pretrained(bundle), report.DemoSettings(steps=1)
    assert report.make(report.DemoSong(tmp_path / "mix.wav", tmp_path / "own.wav"), model, settings).true_stems
    with pytest.raises(AudioError, match=r"late.wav: does not belong to .*mix.wav"):
        report.make(report.DemoSong(tmp_path / "mix.wav", None, tmp_path / "late.wav"), model, settings)


def test_known_stems_judge_the_separation(bundle: Path, tmp_path: Path) -> None:
    voice, band = song(1.0, seed=1), song(1.0, seed=2)
    for name, sound in (("mix", voice + band), ("vocals", voice), ("accompaniment", band)):
        write(tmp_path / f"{name}.flac", 0.5 * sound, RATE)
    source = report.demo_song(tmp_path)
    made = report.make(source, DuoTok.from_pretrained(bundle), report.DemoSettings(steps=1))
    assert not made.true_stems
    assert set(made.separation["vocals"]) == {"separated", "mix"}
    assert "true stems of this song are known" in report_page.render(
        made, {t: made.model.code_vectors(made.tokens, t) for t in ("vocals", "accompaniment")}
    )


@pytest.mark.parametrize("sound", [torch.zeros(2, RATE), song(0.05)], ids=["silent", "short"])
def test_nothing_to_hear(sound: torch.Tensor, bundle: Path, tmp_path: Path) -> None:
    write(tmp_path / "quiet.wav", sound, RATE)
    with pytest.raises(AudioError, match="quiet"):
        report.make(report.DemoSong(tmp_path / "quiet.wav"), DuoTok.from_pretrained(bundle), report.DemoSettings())


def test_mistakes_are_one_line(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    write(tmp_path / "good.wav", song(0.5), RATE)
    (tmp_path / "file").write_text("in the way")
    for arguments in (
        (tmp_path / "missing.wav",),
        (tmp_path / "text.wav",),
        ("--vocals", tmp_path / "good.wav"),
        (tmp_path / "good.wav", "--start", 9),
        (tmp_path / "good.wav", "--sampler", "nonsense"),
        (tmp_path / "good.wav", "-o", tmp_path / "file" / "out"),
    ):
        done = demo("-o", tmp_path / "out", "--model", bundle, *arguments)
        assert done.exit_code == 1
        assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "out" / "index.html").exists()


def test_no_demo_song_in_this_installation(tmp_path: Path) -> None:
    with pytest.raises(DuoTokError, match="name one: duotok demo SONG"):
        report.demo_song(tmp_path / "nowhere")


def test_variety() -> None:
    distinct, fresh = pictures.variety(torch.tensor([1, 1, 2, 3, 3, 3]), window=2)
    assert fresh.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5, 3 / 6])
    assert distinct.tolist() == [0.5, 0.5, 1.0, 1.0, 0.5, 0.5]
    assert pictures.variety(torch.tensor([7]))[0].tolist() == [1.0]


def test_colours() -> None:
    codes = torch.tensor([5, 9, 5, 32_767])
    colours = pictures.identity_colours(codes)
    assert (colours[0] == colours[2]).all() and (colours[0] != colours[1]).any()
    vectors = torch.randn(50, 6)
    vectors[3] = vectors[7]
    by_sound = pictures.meaning_colours(vectors)
    assert by_sound.shape == (50, 3) and by_sound.min() >= 0 and by_sound.max() <= 1
    assert by_sound[3] == pytest.approx(by_sound[7])
    assert pictures.meaning_colours(torch.zeros(2, 6)).shape == (2, 3)


def test_clock() -> None:
    assert [pictures.clock(s) for s in (0, 65, 2.5, 600.0)] == ["0:00", "1:05", "0:02.5", "10:00"]


def test_demo_replaces_only_what_it_made(bundle: Path, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", song(1.0), RATE)
    mine = {name: f"my own {name}".encode() for name in ("vocals.flac", "index.html", "song.duotok")}
    for name, data in mine.items():
        (tmp_path / name).write_bytes(data)
    arguments = (tmp_path / "song.wav", "-o", tmp_path, "--model", bundle, "--steps", "1")
    done = demo(*arguments)
    assert done.exit_code == 1 and "and 2 more: there already" in done.stderr and "--force" in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in mine} == mine
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine, "song.wav"])
    assert demo(*arguments, "--force").exit_code == 0
    assert demo(*arguments).exit_code == 0  # its own
    (tmp_path / "picture.png").write_bytes(b"changed by hand")
    done = demo(*arguments)
    assert done.exit_code == 1 and "picture.png" in done.stderr
    assert (tmp_path / "picture.png").read_bytes() == b"changed by hand"


def test_demo_never_replaces_its_input(bundle: Path, tmp_path: Path) -> None:
    write(tmp_path / "original.flac", song(1.0), RATE)
    before = (tmp_path / "original.flac").read_bytes()
    done = demo(tmp_path / "original.flac", "-o", tmp_path, "--model", bundle, "--force")
    assert done.exit_code == 1 and "is an input" in done.stderr
    assert (tmp_path / "original.flac").read_bytes() == before


def test_everything_has_a_name_and_works_without_a_mouse(page: Page) -> None:
    """That all have names and the pictures take keys is checked by the reader of the page."""
    players = [fields for tag, fields in page.tags if tag == "audio"]
    assert len(players) == 9 == len({player["aria-label"] for player in players})
    assert "Vocals, decoded" in {player["aria-label"] for player in players}
    views = [fields for _, fields in page.tags if fields.get("class") == "view"]
    assert len(views) == 9 == len({view["aria-label"] for view in views})
    assert all(view["role"] == "slider" and view["aria-valuemax"] == "3.0" for view in views)
    tables = [fields["aria-label"] for _, fields in page.tags if fields.get("role") == "region"]
    assert tables == ["distances", "use of the codebooks", "time taken"]


def test_the_mixer_is_told_what_it_needs(page: Page) -> None:
    (mixer,) = (fields for _, fields in page.tags if fields.get("id") == "mixer")
    assert float(mixer["data-seconds"]) == 3.0 and 0 < float(mixer["data-headroom"]) <= 1
    mixed = [fields for _, fields in page.tags if "data-side" in fields]
    assert {(m["data-side"], m["data-track"]) for m in mixed} == {
        (s, t) for s in ("in", "out") for t in ("vocals", "accompaniment")
    }
    assert all(-101 < float(m["data-lufs"]) < 10 and float(m["data-gain"]) >= 1 for m in mixed)
    buttons = [(fields["data-what"], fields["data-track"]) for _, fields in page.tags if "data-what" in fields]
    assert sorted(buttons) == [(w, t) for w in ("mute", "solo") for t in ("accompaniment", "vocals")]
    assert [fields["value"] for _, fields in page.tags if fields.get("name") == "side"] == ["in", "out"]


def test_names_are_bytes(bundle: Path, tmp_path: Path) -> None:
    import os

    write(tmp_path / "a.wav", song(0.5), RATE)
    odd = (tmp_path / "a.wav").rename(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    done = CliRunner().invoke(
        app, ["demo", str(odd), "-o", str(tmp_path / "out"), "--model", str(bundle), "--steps", "1"]
    )
    assert done.exit_code == 0, done.output
    assert "caf\\xe9" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
