"""benchmarks/effects.mk by its dry run: every arm differs from `full` in its own setting alone, in both ladders."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {
    "without-noise": ("model.noise=none", "model.noise=none"),
    "full-covariance": ("model.noise_covariance=full", "model.noise_covariance=full"),
    "without-mss": ("model.mask_head=false", "model.mask_head=false"),
    "without-freezing": (None, "freeze=false"),
    "shared-codebook": (None, "model.shared_codebook=true"),
}
"""Arm -> what it sets in stage 2 (None: it takes full's) and in stage 3."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def planned(*words: str) -> list[str]:
    """The commands of a dry run, one a line."""
    done = subprocess.run(
        ["make", "-n", "-f", "benchmarks/effects.mk", "OUT=out", "SEEDS=0 2", *words],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.replace("\\\n", " ").splitlines()


def training(lines: list[str], stage: str, run: str) -> set[str]:
    """The words of the one command that trains a stage of a run, without the names of the run and its start."""
    found = [line for line in lines if f"train {stage} " in line and f"--runs out/{run} " in f"{line} "]
    found = [line for line in found if "--stop-after" not in line]  # one step that derives for all
    assert len(found) == 1, f"{stage} of {run}: {found}"
    return set(re.findall(r"--set (\S+)", found[0]))


@pytest.mark.parametrize("ladder", [(), ("START=mini", "MASKS=60")], ids=["from nothing", "from a bundle"])
def test_an_arm_differs_from_full_in_its_own_setting(ladder: tuple[str, ...]) -> None:
    lines = planned("tokens", *ladder)
    for seed in (0, 2):
        full = {stage: training(lines, stage, f"full-{seed}") for stage in ("stage2", "stage3")}
        assert f"seed={seed}" in full["stage2"] & full["stage3"]
        assert not ladder or {"model.mask_head=true", "mask_seconds=60"} < full["stage2"]
        for arm, (second, third) in CHANGES.items():
            if second is None:
                assert not any(f"--runs out/{arm}-{seed} " in f"{line} " and "train stage2" in line for line in lines)
                own = {f"start_from=../full-{seed}/stage2"}
            else:
                assert training(lines, "stage2", f"{arm}-{seed}") == full["stage2"] | {second}
                own = set()
            assert training(lines, "stage3", f"{arm}-{seed}") == full["stage3"] | own | {third}


def test_arms_of_a_seed_share_its_stage_1() -> None:
    lines = planned("tokens")
    assert sum("train stage1" in line for line in lines) == 2
    for arm in ("full", "without-noise"):
        assert "start_from=../base-2/stage1" in training(lines, "stage2", f"{arm}-2")


def test_a_ladder_from_a_bundle_has_no_masks_by_itself() -> None:
    lines = planned("START=mini", "tokens")
    text = "\n".join(lines)
    assert "bundle --unpack mini" in text and "train stage1" not in text and "without-mss" not in text
    assert "start_from=../released/stage2" in training(lines, "stage2", "full-0")
    assert "-c effects-released/stage3" in text and "-c effects/stage3" not in text


def test_every_tokenizer_is_packed_and_compared() -> None:
    lines = planned("ARMS=full shared-codebook", "PACK=songs")
    packed = [line for line in lines if "benchmarks.effects tokens" in line]
    assert len(packed) == 4 and all("--data songs" in line for line in packed)
    compared = next(line for line in lines if "eval lm" in line)
    assert "full: [full-0.parquet,full-2.parquet]" in compared and "seeds=[0,2]" in compared
    assert "shared-codebook: [shared-codebook-0.parquet,shared-codebook-2.parquet]" in compared
    assert "jittered: jittered-0.parquet" in compared and "without-noise" not in compared


def test_what_all_need_is_derived_once_before_two_can_want_it() -> None:
    """With -j2 two trainings, or two that pack, would derive the same features at once, and the second is refused."""
    lines = planned("START=mini", "WORK=work", "PACK=songs", "ARMS=full shared-codebook", "tokens")
    trained = [line for line in lines if "train stage" in line]
    assert "--stop-after 1" in trained[0] and "-c effects-released/stage2" in trained[0]
    again = subprocess.run(
        ["make", "-n", "-p", "-f", "benchmarks/effects.mk", "OUT=out", "START=mini", "ARMS=full shared-codebook", "tokens"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in ("full-1", "shared-codebook-0"):
        rule = next(line for line in again if line.startswith(f"out/tokens/{name}.parquet:"))
        assert rule.endswith("| out/tokens/full-0.parquet"), "packed after the one that derives"
    first = next(line for line in again if line.startswith("out/full-1/.stage2:"))
    assert "out/.features" in first
