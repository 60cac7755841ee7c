"""The tagging experiment on tiny songs: splits, caches, controls, what is left out, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.suite.conftest import run_suite, suite_of
from tests.suite.fakes import HERE
from typer.testing import CliRunner

from duotok.audio.io import write
from duotok.cli.main import app
from duotok.codec.duotok import DuoTok
from duotok.errors import ConfigError
from duotok.evaluation.store import read_cells
from duotok.records import CorpusError, Recording
from duotok.separation.bs_roformer import BSRoFormer
from duotok.separation.separator import MiniSeparator
from duotok.suite.runner import Runner
from duotok.suite.table import as_markdown as suite_markdown
from duotok.suite.tagging import conduct, work
from duotok.suite.tagging.conduct import TaggingSettings
from duotok.suite.tagging.embeddings import EmbeddingCache, random_vectors, reader
from duotok.suite.tagging.experiment import Experiment, TaggingConfig
from duotok.suite.tagging.probe_training import ProbeTraining, TaggedSongs, fit
from duotok.suite.tagging.table import inputs_of
from duotok.suite.tagging.tag_sets import TagSet, most_frequent, open_tag_set

ARTISTS = (
    "bach_soloists",
    "lvx_nova",
    "jay_kishor",
    "seismic_anamoly",
    "ambient_teknology",
    "dac_crowell",
    "kitka",
    "memories",
)


def magnatagatune(root: Path) -> Path:
    """Clips as published: a table of marks, folders of MP3. Artists are in several folders, as in the true set."""
    rows = ["clip_id\tno voice\tsinging\tguitar\tmp3_path"]
    for number in range(24):
        folder = "0123456789abcdef"[number % 16]
        path = f"{folder}/{ARTISTS[number % 8]}-album-0{1 + number // 8}-title-0-29.mp3"
        rows.append(f"{number}\t{int(number % 3 == 0)}\t{int(number % 3 == 1)}\t{number % 2}\t{path}")
        (root / "mp3" / folder).mkdir(parents=True, exist_ok=True)
        if number < 2:
            write(root / "mp3" / path, 0.1 * torch.randn(1, 32_000), 16_000)
    (root / "annotations_final.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def test_magnatagatune_is_split_by_artist_and_read_from_its_real_layout(tmp_path: Path, model: DuoTok) -> None:
    root = magnatagatune(tmp_path)
    found = open_tag_set(f"magnatagatune={root}")
    assert found.truth and "by artist" in found.name and {*found.tags} == {"no voice", "singing", "guitar"}
    artists = {split: {item.identity for item in found.of(split)} for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert not artists["train"] & artists["test"] and not artists["validation"] & artists["test"]
    labels = dict(zip((item.id for item in found.recordings), found.labels(found.recordings).tolist(), strict=True))
    assert labels["magnatagatune/1"] == [tag in ("singing", "guitar") for tag in found.tags]
    cache = EmbeddingCache(tmp_path / "cache", model, 29.0)
    there = [cache.get(item) for item in found.recordings if item.id in ("magnatagatune/0", "magnatagatune/1")]
    assert [each.frames for each in there if each] == [50, 50], "two seconds at 25 Hz"
    missing = next(item for item in found.recordings if item.id == "magnatagatune/5")
    assert cache.get(missing) is None and "put the sound there" in cache.problems["magnatagatune/5"]


def test_the_folder_split_says_that_it_leaks(tmp_path: Path) -> None:
    assert "artists are on both sides" in open_tag_set(f"magnatagatune={magnatagatune(tmp_path)}", "marble").name


def test_tables_without_all_tags_are_refused(tmp_path: Path) -> None:
    (tmp_path / "index_mtt.tsv").write_text("2\tf/a-b-01-c-0-29.mp3\n")
    with pytest.raises(CorpusError, match=r"annotations_final\.csv"):
        open_tag_set(f"magnatagatune={tmp_path}")


def test_an_artist_in_two_splits_is_refused() -> None:
    items = [
        Recording(f"x/{n}", "x", "song", split, "the same", {"mix": "m"}) for n, split in enumerate(("train", "test"))
    ]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'the same' is in two splits"):
        TagSet("x", True, ("a",), tuple(items)).check()


def test_pseudo_labels_are_named_as_such(tmp_path: Path) -> None:
    header = "path\tuse\tkind\tstart\tseconds\tchannels\thas_vocals\tlicence\tattribution\tsource\n"
    rows = [
        f"music/{n}.wav\ttrain\tinstrumental\t0\t5\t1\tno\tCC0\tx\towner{n % 4}/repo:folder/My Song {n}.mp3\n"
        for n in range(12)
    ]
    (tmp_path / "INDEX.tsv").write_text(header + "".join(rows))
    table = tmp_path / "metadata" / "tagger" / "musicnn_mtat_predictions.tsv"
    table.parent.mkdir(parents=True)
    marks = [f"owner{n % 4}+repo/My_Song_{n}.ogg\t{0.9 if n % 2 else 0.1}\t0.01\n" for n in range(12)]
    table.write_text("path\tguitar\tpiano\n" + "".join(marks))
    found = open_tag_set(f"pseudo={tmp_path}")
    assert not found.truth and "pseudo-labels" in found.name
    assert found.tags == ("guitar",) and found.labels(found.recordings)[:, 0].sum() == 6
    assert {item.identity for item in found.recordings} == {f"owner{n}/repo" for n in range(4)}


def test_generated_songs_have_true_tags(songs: Path) -> None:
    found = open_tag_set(f"songs={songs}")
    assert found.tags == ("mode: major", "mode: minor"), "tags that all songs carry tell nothing"
    assert [len(found.of(split)) for split in ("train", "validation", "test")] == [14, 4, 6]  # type: ignore[arg-type]
    assert most_frequent([("b", "a"), ("a",), ("c", "b")], 2) == ("a", "b")
    with pytest.raises(ConfigError, match="KIND=FOLDER"):
        open_tag_set("nothing")


def test_controls_come_from_the_same_codes(tmp_path: Path, songs: Path, model: DuoTok) -> None:
    item = open_tag_set(f"songs={songs}").recordings[0]
    cache = EmbeddingCache(tmp_path, model, 30.0)
    embedded = cache.get(item)
    assert embedded is not None
    vectors = embedded.vectors(0, 50)
    tokens = model.encode(vocals=item.audio["vocals"], accompaniment=item.audio["accompaniment"])
    assert vectors.shape == (50, sum(v.shape[1] for v in model.embeddings(tokens).values()))
    shuffled = reader([embedded], "shuffled", 0)(0, 0, 50)
    assert not torch.equal(shuffled, vectors)
    assert torch.equal(shuffled.sort(0).values, vectors.sort(0).values), "the same vectors in another order"
    codes = torch.tensor([[3, 7, 3], [1, 1, 2]])
    random = random_vectors(codes, 16, seed=0)
    assert torch.equal(random, random_vectors(codes, 16, seed=0))
    assert not torch.equal(random, random_vectors(codes, 16, seed=1))
    same_code = random_vectors(torch.tensor([[3, 3], [1, 1]]), 16, 0)
    assert torch.allclose(same_code[0], same_code[1]) and torch.allclose(same_code[0], random[0])


def test_embeddings_are_made_once_and_anew_when_the_sound_changes(
    tmp_path: Path, songs: Path, model: DuoTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = open_tag_set(f"songs={songs}").recordings[0]
    cache = EmbeddingCache(tmp_path, model, 30.0)
    assert cache.missing([item]) == [item]
    cache.get(item)
    monkeypatch.setattr(cache, "embed", lambda sound: pytest.fail("made again"))
    assert cache.get(item) is not None and cache.missing([item]) == []
    assert EmbeddingCache(tmp_path, model, 20.0).missing([item]) == [item], "another excerpt"


def test_another_separator_of_the_same_tokenizer_is_measured_again(
    tmp_path: Path, songs: Path, model: DuoTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mix goes in, so what takes it apart decides the tokens as well; the tokenizer's hash leaves it out."""

    def places() -> set[str]:
        data = open_tag_set(f"songs={songs}")
        experiment = Experiment(data, "", TaggingConfig(), model, tmp_path)
        files = experiment.cache.path(data.recordings[0]), experiment.scores_path("tokens", 0)
        return {*map(str, files), str(inputs_of("x", experiment).config)}

    first = places()
    assert places() == first
    monkeypatch.setattr(model, "_separator", MiniSeparator(BSRoFormer(model.config.separator)))
    assert not places() & first


def test_a_probe_learns_what_is_there_and_stops_early() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((30, 2)) < 0.5
    noise = torch.from_numpy(rng.normal(size=(30, 20, 6))).float()
    sounds = noise.clone()
    sounds[..., 0] += torch.from_numpy(labels[:, 0]).float()[:, None] * 4
    config = ProbeTraining.model_validate(
        {
            "probe": {"kind": "linear"},
            "seconds": 0.4,
            "epochs": 9,
            "patience": 3,
            "lr": 0.05,
            "warmup": 0,
            "batch_size": 8,
        }
    )

    def split(first: int, last: int) -> TaggedSongs:
        return TaggedSongs(
            lambda song, start, stop: sounds[first + song, start:stop], (20,) * (last - first), labels[first:last]
        )

    fitted = fit(config, split(0, 16), split(16, 22), 25.0, seed=0)
    assert fitted.epoch == 1 + int(np.argmin(fitted.losses)) and len(fitted.losses) <= fitted.epoch + 3
    scores = fitted.scores(split(22, 30))
    truth = labels[22:]
    assert scores[truth[:, 0], 0].min() > scores[~truth[:, 0], 0].max(), "the tag that can be heard"
    again = fit(config, split(0, 16), split(16, 22), 25.0, seed=0)
    assert again.losses == fitted.losses, "the same seed gives the same probe"


def test_the_command(tmp_path: Path, songs: Path, bundle: Path) -> None:
    call = [
        "eval", "tagging", f"tiny={bundle}", "--data", f"songs={songs}", "-o", str(tmp_path / "store"), "--probe",
        "linear", "--set", "training.seconds=1", "--set", "training.epochs=3", "--set", "training.lr=0.1", "--set", "seeds=[0]",
        "--set", "replicates=100", "--set", "excerpt=1",
    ]  # fmt: skip
    plan = CliRunner().invoke(app, [*call, "--dry-run"])
    assert plan.exit_code == 0 and "24 recordings to encode" in plan.stdout and not (tmp_path / "store").exists()
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    for condition in ("tokens", "untrained", "shuffled", "mel"):
        assert f"| {condition} |" in done.stdout
    assert "Labels: true." in done.stdout and "nan" not in done.stdout.lower() and "|  |" not in done.stdout
    cells, problems = read_cells(tmp_path / "store")
    assert not problems and {cell.inputs.tokenizer for cell in cells} == {"tiny", "mel statistics"}
    mel = next(cell for cell in cells if cell.inputs.tokenizer == "mel statistics")
    assert mel.about["figures"]["auc"][0] == 1.0, "150 Hz against 1,500 Hz is heard in the mel"
    again = CliRunner().invoke(app, call)
    assert again.stdout == done.stdout and "done before" in again.output
    suite = suite_of(tmp_path, songs, bundle)
    suite["instruments"] = {"tagging": {
        "probes": ["linear"], "training": {"seconds": 1, "epochs": 3, "lr": 0.1}, "seeds": [0], "replicates": 100, "excerpt": 1,
    }}  # fmt: skip
    found = run_suite(tmp_path, suite)
    assert {c.inputs.tokenizer: c.created for c in found.cells if not c.gap} == {
        c.inputs.tokenizer: c.created for c in cells
    }, "the suite's own songs have tags, and the command has measured them"
    (gap,) = [c for c in found.cells if c.gap]
    assert gap.inputs.tokenizer == "the sound itself" and gap.gap == "the sound itself has no tokens"
    assert "the sound itself: not measured: the sound itself has no tokens" in suite_markdown(found.cells)


def test_too_few_recordings_are_told_before_anything_is_measured(tmp_path: Path, songs: Path) -> None:
    settings = TaggingSettings(data=f"songs={songs}", limit=12)
    with pytest.raises(ConfigError, match="3 recordings in the test split, and an interval needs 6"):
        conduct.plan(settings, [], tmp_path)


def test_a_recording_that_takes_its_process_with_it_costs_that_recording(
    tmp_path: Path, songs: Path, model: DuoTok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker that died leaves is a failed unit: the recording is left out by name, also by the probes, until --retry."""
    settings = TaggingSettings.model_validate({
        "data": f"songs={songs}", "probes": ["linear"], "training": {"seconds": 1, "epochs": 1}, "seeds": [0], "replicates": 100,
        "excerpt": 1,
    })  # fmt: skip
    monkeypatch.setattr(conduct, "open_each", lambda systems, mix: ([], []))
    true = work.embed_recording

    def crashing(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["recording"].endswith("00000003"):
            raise RuntimeError("its worker crashed")
        return true(payload)

    monkeypatch.setattr(conduct, "embed_recording", crashing)
    plan = conduct.plan(settings, [], tmp_path)
    (cell,) = plan.conduct(Runner(tmp_path)).cells
    (left,) = [row for row in cell.failures if row.measure == "scored"]
    assert left.item.endswith("00000003") and "its worker crashed" in left.reason
    monkeypatch.setattr(conduct, "embed_recording", true)
    assert plan.todo(retry=True)[0].why == "some of it failed" and not plan.todo()[0].why
    (cell,) = conduct.plan(settings, [], tmp_path).conduct(Runner(tmp_path, retry=True)).cells
    assert not [row for row in cell.failures if row.measure == "scored"]


def test_probes_learn_again_from_recordings_that_retry_brought_back(
    tmp_path: Path, songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores of a probe are those of the recordings that are there, not of those that once were; the same ones are not learned
    twice."""
    settings = TaggingSettings.model_validate({
        "data": f"songs={songs}", "probes": ["linear"], "training": {"seconds": 1, "epochs": 1}, "seeds": [0], "replicates": 100,
        "excerpt": 1,
    })  # fmt: skip
    monkeypatch.setattr(conduct, "open_each", lambda systems, mix: ([], []))
    embed, learn = work.embed_recording, Experiment._train
    broken, learned = {open_tag_set(settings.data).of("train")[0].id}, list[int]()

    def embedded(payload: dict[str, Any]) -> dict[str, Any]:
        if payload["recording"] in broken:
            raise RuntimeError("out of memory")
        return embed(payload)

    def counted(self: Experiment, condition: Any, seed: int, usable: Any, path: Path) -> None:
        learned.append(len(usable["train"]))
        learn(self, condition, seed, usable, path)

    monkeypatch.setattr(conduct, "embed_recording", embedded)
    monkeypatch.setattr(Experiment, "_train", counted)
    conduct.plan(settings, [], tmp_path).conduct(Runner(tmp_path, HERE))
    assert learned == [13]
    broken.clear()
    for _ in range(2):
        work._experiment.cache_clear()
        conduct.plan(settings, [], tmp_path).conduct(Runner(tmp_path, HERE, retry=True))
    assert learned == [13, 14]


def test_settings_keep_their_defaults_where_the_public_code_has_them() -> None:
    training = TaggingConfig().training
    assert (training.seconds, training.batch_size, training.weight_decay, training.betas) == (
        5.0,
        64,
        0.08,
        (0.8, 0.99),
    )
