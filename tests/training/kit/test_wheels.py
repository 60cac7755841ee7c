"""Wheels for another machine, resolved from a folder of tiny ones by the real pip."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.training.kit.wheel_maker import make_wheel

from duotok.errors import ConfigError, DuoTokError
from duotok.training.kit import wheels
from duotok.training.kit.wheels import Resolver, Sources, Target, from_list, parse_have, read_wheel

LINUX = Target("3.12", "linux-x86_64")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """duotok -> alpha, beta, torch; alpha -> gamma, delta (old Pythons), epsilon (macOS); beta -> gamma<2."""
    folder = tmp_path / "index"
    needs = ["gamma>=1", "delta; python_version < '3.12'", "epsilon; sys_platform == 'darwin'", "zeta; extra == 'more'"]
    make_wheel(folder, "alpha", "1.5", needs)
    make_wheel(folder, "beta", "2.0", ["gamma<2"])
    for version in ("1.0", "1.9", "3.0"):
        make_wheel(folder, "gamma", version)
    for name in ("delta", "epsilon", "zeta"):
        make_wheel(folder, name, "1.0")
    make_wheel(folder, "native", "1.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    make_wheel(folder, "native", "2.0", tag="cp313-cp313-manylinux_2_28_x86_64")
    return folder


def own(monkeypatch: pytest.MonkeyPatch, *requirements: str) -> None:
    monkeypatch.setattr(wheels, "duotok_requirements", lambda extras: [Requirement(text) for text in requirements])


def resolved(index: Path, target: Target = LINUX, have: str = "", extras: tuple[str, ...] = ()) -> list[str]:
    folder = index.parent / "got"
    folder.mkdir(exist_ok=True)
    sources = Sources([str(index)], no_index=True)
    found = Resolver(target, parse_have([have]), folder, sources, lambda text: None).resolve(extras)
    assert all(wheel.path.is_file() for wheel in found)
    return [f"{wheel.name} {wheel.version}" for wheel in found]


def test_requirements_are_followed_for_the_target(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(monkeypatch, "alpha>=1", "beta")
    assert resolved(index) == ["alpha 1.5", "beta 2.0", "gamma 1.9"]  # the newest that both allow
    assert resolved(index, Target("3.11", "macos-arm64")) == [
        "alpha 1.5",
        "beta 2.0",
        "delta 1.0",
        "epsilon 1.0",
        "gamma 1.9",
    ]


def test_extras_are_followed_too(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(monkeypatch, "duotok[inner]; extra == 'outer'", "alpha[more]; extra == 'inner'", "beta; extra == 'other'")
    assert resolved(index, extras=("outer",)) == ["alpha 1.5", "gamma 3.0", "zeta 1.0"]


def test_what_the_machine_has_ends_the_walk(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(monkeypatch, "alpha>=1", "Torch>=2.6")
    assert resolved(index, have="torch==2.11.0, gamma") == ["alpha 1.5"]
    assert resolved(index, have="torch==2.11.0+cu130,gamma") == ["alpha 1.5"]
    with pytest.raises(ConfigError, match=r"torch==2\.5: Torch>=2\.6 is needed"):
        resolved(index, have="torch==2.5,gamma")


def test_native_wheels_are_those_of_the_target(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(monkeypatch, "native")
    assert resolved(index) == ["native 1.0"]
    assert resolved(index, Target("3.13", "linux-x86_64")) == ["native 2.0"]


@pytest.mark.parametrize("target", [Target("3.12", "linux-aarch64"), Target("3.14", "linux-x86_64")])
def test_a_wheel_that_does_not_exist_is_named_with_python_and_platform(
    index: Path, monkeypatch: pytest.MonkeyPatch, target: Target
) -> None:
    own(monkeypatch, "alpha", "native>=1")
    with pytest.raises(
        DuoTokError, match=rf"no wheel of native>=1 for Python {target.python} on {target.platform}"
    ) as error:
        resolved(index, target)
    assert "\n" not in str(error.value) and "--have" in str(error.value)


def test_a_wheel_that_constraints_leave_out_is_named_too(index: Path, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("gamma<1.0\n")
    (tmp_path / "list.txt").write_text("gamma>=1\n")
    sources = Sources([str(index)], no_index=True, constraint=tmp_path / "constraints.txt")
    with pytest.raises(DuoTokError, match=r"no wheel of gamma.* for Python 3.12 on linux-x86_64"):
        from_list(tmp_path / "list.txt", LINUX, tmp_path / "got", sources)


def test_requirements_that_contradict_each_other_end(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(monkeypatch, "beta", "gamma>=2")
    with pytest.raises(DuoTokError, match="no wheel of gamma"):
        resolved(index)


def test_a_list_is_taken_as_it_is(index: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("alpha==1.5\ngamma==1.0\n")
    found = from_list(tmp_path / "list.txt", LINUX, tmp_path / "got", Sources([str(index)], no_index=True))
    assert [(wheel.name, str(wheel.version)) for wheel in found] == [("alpha", "1.5"), ("gamma", "1.0")]
    with pytest.raises(ConfigError, match="no such file"):
        from_list(tmp_path / "none.txt", LINUX, tmp_path / "got", Sources())


@pytest.mark.parametrize(
    ("python", "platform", "message"),
    [
        ("3.10", "linux-x86_64", "--python 3.10: write 3.11 or newer"),
        ("three", "linux-x86_64", "--python three"),
        ("3.12", "linux-x86-64", "did you mean linux-x86_64"),
    ],
)
def test_targets_that_are_none(python: str, platform: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Target(python, platform)


def test_have_is_names_with_or_without_a_version() -> None:
    assert parse_have(["Torch==2.11.0, hugging_face.hub", "numpy"]) == {
        "torch": "2.11.0",
        "hugging-face-hub": "",
        "numpy": "",
    }
    assert parse_have(["torch==2.11.0+cu130,a==1\n"]) == {"torch": "2.11.0+cu130", "a": "1"}
    for wrong in ("torch>=2", "a b"):
        with pytest.raises(ConfigError, match="--have"):
            parse_have([wrong])


def test_duotok_says_what_it_requires() -> None:
    found = {requirement.name for requirement in wheels.duotok_requirements(["train"])}
    assert {"torch", "accelerate", "pydantic", "av"} <= found
    with pytest.raises(ConfigError, match=r"--extra nothing: there are .*train"):
        wheels.duotok_requirements(["nothing"])


def test_a_file_that_is_no_wheel_is_named(tmp_path: Path) -> None:
    path = tmp_path / "alpha-1.0-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(ConfigError, match="no usable wheel"):
        read_wheel(path)
