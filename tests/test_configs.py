"""The packaged recipes: every file parses, the paper's say what is known of it and where each value is from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from benchmarks.paper_step import STAGES as PAPER_STEPS
from benchmarks.paper_step import paper_config

from duotok.comparison.plan import ComparisonConfig
from duotok.config import RECIPES, layers, load_config, parse, read_yaml
from duotok.lm.stage import LMStageConfig
from duotok.lyrics.text import BERT_ENTRIES, BERT_NAME, CharacterVocabulary
from duotok.model.bestrq import BestRQ
from duotok.model.config import BS_ROFORMER_BANDS, TokenizerConfig
from duotok.model.tokenizer import Tokenizer
from duotok.renderer.autoencoder import Autoencoder
from duotok.renderer.dit import PAPER, DiT
from duotok.separation.bs_roformer import BSRoFormerConfig
from duotok.separation.teacher import BINS
from duotok.training.budget import learning_rate
from duotok.training.stage import StageConfig
from duotok.training.stages.crop_stage import BOTTLENECK_SETTINGS, ENCODER_SETTINGS
from duotok.training.stages.registry import NAMES, config_class

CONFIGS = RECIPES
PARTS = ("paper/tokenizer.yaml", "comparisons/base.yaml")
"""What others extend; no stage of its own."""
FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
COMPARISONS = [name for name in FILES if name.startswith("comparisons/") and name not in PARTS]
STAGES = [name for name in FILES if name not in (*PARTS, *COMPARISONS)]
PAPER_STAGES = [name for name in STAGES if name.startswith("paper/")]
ABLATIONS = [name for name in FILES if name.startswith("ablations/")]

SOURCE = re.compile(r"# (P2|P1s|PF|A|C|S|I|default: paper silent)\b")
VALUE = re.compile(r"^\s*[A-Za-z_]\w*:\s+[^#\s]")


def stage_of(name: str) -> str:
    return Path(name).stem.split(".")[0]


def config(name: str) -> Any:
    return load_config(LMStageConfig if name.startswith("lm/") else config_class(stage_of(name)), CONFIGS / name)


def parameters(module: torch.nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


# -- every file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_parses(name: str) -> None:
    assert isinstance(config(name), StageConfig)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_parse(name: str) -> None:
    """Also the language model's settings in them, which are checked with the tokens only."""
    found = load_config(ComparisonConfig, CONFIGS / name)
    settings = parse(LMStageConfig, {**found.lm, "data": "tokens.parquet"}, name)
    assert found.compared_with in found.tokenizers
    assert len(found.seeds) >= 3
    assert settings.seconds >= 1.5 * max(found.corruption.shifts if found.corruption else (0,))


@pytest.mark.parametrize("name", STAGES)
def test_text_head_fits_its_vocabulary(name: str) -> None:
    found = config(name)
    if hasattr(found, "crops"):
        size = CharacterVocabulary().size if found.crops.vocabulary == "characters" else BERT_ENTRIES
        assert found.model.vocabulary == size


@pytest.mark.parametrize("name", FILES)
def test_no_key_stands_twice(name: str) -> None:
    class Once(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{name}: {keys}"
        return loader.construct_mapping(node, deep=True)

    Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    yaml.load((CONFIGS / name).read_text(), Once)


def test_every_stage_has_its_mini_and_every_stage_of_the_paper_its_preset() -> None:
    assert {stage_of(name) for name in FILES if name.startswith("mini/")} == set(NAMES)
    assert {Path(name).stem for name in PAPER_STAGES} == {
        "stage1", "stage2", "stage3", "stage4.vocals", "stage4.accompaniment",
    }  # fmt: skip


def test_mini_names_what_decides_its_best_checkpoint() -> None:
    for name in STAGES:
        assert "best" in read_yaml(CONFIGS / name), name


# -- the paper -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PAPER_STAGES, "paper/tokenizer.yaml"])
def test_every_value_of_the_paper_says_where_it_is_from(name: str) -> None:
    values = [line for line in (CONFIGS / name).read_text().splitlines() if VALUE.match(line)]
    without = [line for line in values if not SOURCE.search(line) and not line.startswith("extends:")]
    assert len(values) > 2 and without == []


def test_paper_tokenizer_is_the_preset_in_all_stages() -> None:
    for name in ("stage1", "stage2", "stage3"):
        assert config(f"paper/{name}.yaml").model == TokenizerConfig.preset("paper")


def test_paper_tokenizer_by_its_numbers() -> None:
    c = config("paper/stage2.yaml").model
    assert (c.lower_blocks + c.upper_blocks, c.width, c.heads, c.ffn) == (24, 1024, 16, 4096)
    assert c.lower_blocks == c.upper_blocks == 12
    assert (c.n_mels, c.chroma, c.code_dim) == (128, 12, 16)
    assert 2 * 25 * c.codebook_size.bit_length() - 2 * 25 == 750  # bits a second
    assert (c.noise, c.noise_at, c.noise_probability, c.noise_scale, c.noise_sigma) == (
        "replacement", "bottleneck", 0.2, 1.0, None,
    )  # fmt: skip
    assert (c.quantizer, c.commitment, c.vq_convention, c.vq_norm) == ("simvq", 0.25, "paper", "l2")
    assert (c.shared_codebook, c.routing) == (False, "hard")
    assert c.mel_head and c.chroma_head and c.mask_head and c.text_head
    assert c.stems == ("vocals", "drums", "bass", "other")
    assert c.vocabulary == 119_547


def test_paper_masks_are_the_teachers_bands_up_to_12_khz() -> None:
    c, teacher = config("paper/stage2.yaml").model, BSRoFormerConfig.published()
    audible = [bin for bin in range(1025) if bin * teacher.sample_rate / teacher.n_fft <= 12_000]
    assert c.mask_bins == len(audible) == 558
    assert c.mask_bands == BS_ROFORMER_BANDS and sum(c.mask_bands) == 558
    assert c.mask_bands[:-1] == teacher.bands[: len(c.mask_bands) - 1] and len(teacher.bands) == 62


def test_paper_tokenizer_has_302_million_parameters_in_its_blocks() -> None:
    c = config("paper/stage1.yaml")
    with torch.device("meta"):
        tokenizer, bestrq = Tokenizer(c.model), BestRQ(c.model.n_mels, c.model.width, c.bestrq)
    in_blocks = parameters(tokenizer.lower_blocks) + parameters(tokenizer.upper_blocks)
    assert len(tokenizer.lower_blocks.blocks) + len(tokenizer.upper_blocks.blocks) == 24
    assert 301.5e6 < in_blocks < 303.5e6
    assert parameters(tokenizer.output.text) == 1025 * 119_548
    tokenizer.train_only(1)
    assert parameters(tokenizer, trained=True) + parameters(bestrq) == 322_679_808  # as docs/recipe.md says


@pytest.mark.parametrize("track", ["vocals", "accompaniment"])
def test_paper_dit_has_400_million_parameters(track: str) -> None:
    c = config(f"paper/stage4.{track}.yaml")
    assert c.dit == PAPER and c.track == track
    with torch.device("meta"):
        by_code = parameters(DiT(c.dit))
        by_proj_out = parameters(DiT(c.dit.model_copy(update={"condition": "proj_out", "condition_dim": 1024})))
    assert 404e6 < by_code < 407e6
    assert 404e6 < by_proj_out < 410e6


def test_paper_stage_1() -> None:
    c = config("paper/stage1.yaml")
    assert (c.steps, c.batch_size, c.lr, c.warmup, c.floor) == (3_000_000, 128, 2e-4, 10_000, 0.1)
    assert (c.bestrq.codebook_size, c.bestrq.code_dim, c.bestrq.codebooks, c.bestrq.target_rate) == (8192, 16, 1, 25)
    assert (c.bestrq.span_frames / 25, c.bestrq.mask_probability, c.bestrq.noise_std) == (0.4, 0.6, 0.1)
    assert c.mixture["all"].model_dump(exclude_defaults=True) == {}  # every segment there is


def test_paper_stage_2() -> None:
    c = config("paper/stage2.yaml")
    assert (c.steps, c.lr, c.warmup) == (100_000, 5e-5, 3_000)
    assert weights(c) == {"mix": 4, "vocals": 1, "accompaniment": 1, "instrumental": 1}
    assert lyric_availability(c) == 5 / 7
    assert covered(c) == 5 / 7
    assert c.weights.model_dump() == {
        "mel": 1,
        "chroma": 1,
        "masks": 1,
        "text": 1,
        "latent_norm": 0,
        "decorrelation": 0,
        "mel_octaves": 0,
    }
    assert c.teacher == "bs-roformer" and c.mask_seconds > 1e9
    assert BINS[c.model.mask_bins] == "roformer"


def test_paper_stage_3() -> None:
    c = config("paper/stage3.yaml")
    assert (c.steps, c.lr, c.upper_lr_scale, c.warmup) == (100_000, 1e-4, 0.3, 2_000)
    assert weights(c) == {"vocals": 5, "accompaniment": 4, "instrumental": 1}
    assert lyric_availability(c) == covered(c) == 1 / 2
    assert c.freeze and c.fit_basis == "random" and not c.fit_batches and not c.refit_steps
    assert c.weights.model_dump() == {"vq": 1, "mel": 1, "chroma": 1, "text": 0.5, "mel_octaves": 0}


@pytest.mark.parametrize("name", ["stage2", "stage3"])
def test_paper_samples_are_of_the_types_of_its_list(name: str) -> None:
    c = config(f"paper/{name}.yaml")
    for key, component in c.mixture.items():
        assert component.types == (key,) and not component.optional
    assert "other" not in c.mixture  # speech and sounds stay in stage 1 (C.1)
    assert c.crops.pseudo_mix.share == 0


def test_paper_stage_4() -> None:
    c = config("paper/stage4.vocals.yaml")
    assert (c.steps, c.batch_size, c.warmup, c.floor, c.lr) == (276_000, 120, 2_000, 0.1, 1e-4)
    assert (c.crop_frames / 25, c.dit.latent_dim, c.sample_steps) == (30, 64, 50)
    assert (c.betas, c.weight_decay, c.ema, c.dit.objective, c.si_snr) == ((0.9, 0.999), 1e-3, 0.9999, "v", 0)
    other = config("paper/stage4.accompaniment.yaml")
    assert changed(c.model_dump(), other.model_dump()) == {"track", "seed"}


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage3"])
def test_paper_crops_and_optimizer(name: str) -> None:
    c = config(f"paper/{name}.yaml")
    assert c.crops.frames / 25 == 30 and c.crops.vocabulary == BERT_NAME
    assert (c.precision, c.betas, c.weight_decay) == ("bf16", (0.9, 0.98), 0.01)
    assert c.batch_size % 64 == 0 and c.loader_workers > 0


@pytest.mark.parametrize("name", PAPER_STAGES)
def test_paper_rate_warms_up_to_its_peak_and_ends_at_the_floor(name: str) -> None:
    c = config(name)
    rates = [learning_rate(s, peak=c.lr, warmup=c.warmup, steps=c.steps, floor=c.floor) for s in (0, c.warmup, c.steps)]
    assert rates[0] == c.lr / c.warmup and rates[1] == c.lr and rates[2] == pytest.approx(0.1 * c.lr)


def weights(c: Any) -> dict[str, int]:
    return {name: component.weight for name, component in c.mixture.items()}


def lyric_availability(c: Any) -> float:
    """Share of a cycle whose sound has words that are known: no words are sung in an accompaniment (paper C.3)."""
    sung = {"mix", "vocals"}
    with_words = sum(p.weight for p in c.mixture.values() if p.lyrics and sung & set(p.types))
    return with_words / sum(weights(c).values())


def covered(c: Any) -> float:
    """Share of a cycle that the CTC head learns from."""
    types = set(c.crops.asr_coverage.split("+"))
    return sum(p.weight for p in c.mixture.values() if types & set(p.types)) / sum(weights(c).values())


# -- mini and the ablations ------------------------------------------------------------------------------------------


def test_mini_mixtures_give_voices_and_bands_alike() -> None:
    for name in ("stage2", "stage3"):
        found = weights(config(f"mini/{name}.yaml"))
        assert found["vocals"] + found["solo"] == found["accompaniment"] + found["instrumental"]
    assert weights(config("mini/stage2.yaml"))["mix"] < weights(config("paper/stage2.yaml"))["mix"] / 7 * 14
    for name in ("autoencoder", "stage1", "stage2", "stage3"):
        c = config(f"mini/{name}.yaml")
        needed = {key for key, component in c.mixture.items() if not component.optional}
        assert needed <= {"mix", "vocals", "accompaniment"}, "a corpus of songs with stems is enough"


def test_mini_mixtures_are_those_that_the_page_tells() -> None:
    page = " ".join((CONFIGS.parents[2] / "docs" / "training.md").read_text(encoding="utf-8").split())
    for name, mixes in (("stage2", "{mix} mixes, "), ("stage3", "")):
        found = weights(config(f"mini/{name}.yaml"))
        assert (
            f"of {sum(found.values())} items, {mixes.format(**found)}{found['vocals'] + found['solo']} of vocals ({found['solo']} of these"
            in page
        )
        parts = re.search(rf"- Stage {name[-1]}: .*?(\d+) accompaniments and (\d+) instrumentals", page)
        assert parts is not None and [int(part) for part in parts.groups()] == [
            found["accompaniment"],
            found["instrumental"],
        ]


def test_mini_sizes() -> None:
    with torch.device("meta"):
        assert 13e6 < parameters(Tokenizer(config("mini/stage1.yaml").model)) < 16e6
        assert 10e6 < parameters(DiT(config("mini/stage4.yaml").dit)) < 11e6
        assert 15e6 < parameters(Autoencoder(config("mini/autoencoder.yaml").model)) < 18e6
    assert config("mini/stage1.yaml").bestrq.whitening == "full"
    autoencoder, dit = config("mini/autoencoder.yaml").model, config("mini/stage4.yaml").dit
    assert (autoencoder.latent_dim, autoencoder.bass_latents) == (dit.latent_dim, dit.bass_latents) == (72, 8)
    for name in FILES:
        if name.startswith("mini/"):
            assert config(name).threads == 1


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_differs_from_mini_in_exactly_what_it_names(name: str) -> None:
    (path, own), (base, _) = layers(CONFIGS / name)
    assert base == CONFIGS / "mini" / path.name
    named = set(leaves(own))
    assert 1 <= len(named) <= 3
    ours, theirs = config(name).model_dump(), config(f"mini/{path.name}").model_dump()
    assert changed(theirs, ours) == named
    assert (CONFIGS / name).read_text().startswith("# ")


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_has_a_model(name: str) -> None:
    """Each can be built, and its stage 3 can start from its stage 2."""
    c = config(name)
    before = CONFIGS / name.replace("stage3", "stage2")
    earlier = load_config(config_class("stage2"), before if before.is_file() else CONFIGS / "mini" / "stage2.yaml")
    with torch.device("meta"):
        tokenizer, previous = Tokenizer(c.model), Tokenizer(earlier.model)
    if stage_of(name) == "stage3":
        tokenizer.start_stage3(c.freeze)
        kept = {k: v.shape for k, v in tokenizer.state_dict().items() if not k.startswith(("branches", "router"))}
        assert kept == {k: v.shape for k, v in previous.state_dict().items() if not k.startswith("branches")}


@pytest.mark.parametrize("name", [name for name in STAGES if stage_of(name) in ("stage2", "stage3")])
def test_a_stage_has_the_sizes_of_the_run_that_it_starts_from(name: str) -> None:
    """Or it would be refused (`check_same_settings`)."""
    stage, before = stage_of(name), {"stage2": "stage1", "stage3": "stage2"}[stage_of(name)]
    sibling = str(Path(name).with_name(f"{before}.yaml"))
    one, other = config(name), config(sibling if (CONFIGS / sibling).is_file() else f"mini/{before}.yaml")
    for key in ENCODER_SETTINGS if stage == "stage2" else BOTTLENECK_SETTINGS:
        assert getattr(one.model, key) == getattr(other.model, key), key
    assert one.crops.highpass_hz == other.crops.highpass_hz


def test_the_ablations_of_the_paper_are_there_and_the_readme_lists_all() -> None:
    folders = {Path(name).parent.name for name in ABLATIONS}
    assert {"without-mss", "without-noise", "without-freezing", "shared-codebook", "plain-vq"} <= folders
    listed = re.findall(r"^\| `([\w-]+)` \|.*?\| ([\d, ]+) \|", (CONFIGS / "ablations" / "README.md").read_text(), re.M)
    retrained = {
        folder: ", ".join(sorted(stage_of(n)[-1] for n in ABLATIONS if Path(n).parent.name == folder))
        for folder in folders
    }
    assert dict(listed) == retrained


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in values.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return found


def changed(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of the values that differ."""
    found: set[str] = set()
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= changed(a, b, f"{prefix}{key}.")
        elif a != b:
            found.add(f"{prefix}{key}")
    return found


@pytest.mark.parametrize("name", PAPER_STEPS)
def test_the_benchmark_changes_only_size_and_speed_of_a_step(name: str) -> None:
    given, cut = config(f"paper/{name}.yaml").model_dump(), paper_config(name, 5.0).model_dump()
    crop = "crop_frames" if name.startswith("stage4") else "crops.frames"
    assert changed(given, cut) == {"batch_size", "precision", "device", "loader_workers", "warmup", crop}
