"""Configurations: layers of YAML, overrides, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from duotok.config import Config, load_config, merged, override, parse, read_yaml
from duotok.errors import ConfigError


class Part(Config):
    weight: int = 1
    names: tuple[str, ...] = ()


class Tree(Config):
    steps: int = 10
    rate: float = 1e-3
    part: Part = Part()
    parts: dict[str, Part] = {}
    maybe: Part | None = None


def write(folder: Path, **files: str) -> Path:
    """Files by name with `__` for `/`; returns the first."""
    paths = [folder / f"{name.replace('__', '/')}.yaml" for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return paths[0]


def test_a_file_lies_over_what_it_extends(tmp_path: Path) -> None:
    top = write(
        tmp_path,
        a__top="extends: ../b/middle.yaml\npart: {weight: 3}\nparts:\n  y: {weight: 5}\n",
        b__middle="extends: ground.yaml\nsteps: 20\n",
        b__ground="steps: 1\nrate: 0.5\npart: {weight: 2, names: [u, v]}\nparts:\n  x: {weight: 4}\n",
    )
    config = load_config(Tree, top, ["part.names=[w]"])
    assert config == Tree(
        steps=20, rate=0.5, part=Part(weight=3, names=("w",)), parts={"x": Part(weight=4), "y": Part(weight=5)}
    )


@pytest.mark.parametrize(
    ("under", "over", "result"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": {}}}, {"a": {"b": 1, "c": 3, "d": {}}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
    ],
)
def test_merging(under: dict, over: dict, result: dict) -> None:
    before = repr((under, over))
    assert merged(under, over) == result
    assert repr((under, over)) == before


def test_a_circle_names_all_of_it(tmp_path: Path) -> None:
    top = write(tmp_path, a="extends: b.yaml", b="extends: c.yaml", c=f"extends: ./../{tmp_path.name}/a.yaml")
    with pytest.raises(ConfigError, match=r"a\.yaml, which extends .*b\.yaml, .*c\.yaml, .*a\.yaml: extends itself"):
        read_yaml(top)
    with pytest.raises(ConfigError, match=r"self\.yaml: extends itself"):
        read_yaml(write(tmp_path, self="extends: self.yaml"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "extends: ../none.yaml"}, r"a\.yaml, which extends .*none\.yaml: cannot be read \(No such file"),
        ({"a": "extends: b.yaml", "b": "- 1"}, r"a\.yaml, which extends .*b\.yaml: must be a mapping"),
        ({"a": "extends: b.yaml", "b": "a: [1"}, r"a\.yaml, which extends .*b\.yaml: not valid YAML"),
        ({"a": "extends: [b.yaml]"}, r"a\.yaml: 'extends' = \['b\.yaml'\]; name one YAML file"),
        (
            {"a": "extends: b.yaml", "b": "stepz: 2"},
            r"a\.yaml, which extends .*b\.yaml: unknown key 'stepz'; .*'steps'",
        ),
    ],
)
def test_mistakes_in_layers(files: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Tree, write(tmp_path, **files))


def test_a_misspelt_key_inside_a_dict_or_an_optional_names_the_nearest() -> None:
    for values in ({"parts": {"x": {"wieght": 1}}}, {"maybe": {"wieght": 1}}):
        with pytest.raises(ConfigError, match="wieght'; did you mean 'weight'"):
            parse(Tree, dict(values))


def test_swapped_letters_are_one_slip_and_the_top_comes_first() -> None:
    from duotok.training.stages.stage2 import Stage2Config

    for wrong, right in (("stpes", "steps"), ("sedd", "seed"), ("warmpu", "warmup"), ("batchsize", "batch_size")):
        with pytest.raises(ConfigError, match=f"unknown key '{wrong}'; did you mean '{right}'"):
            parse(Stage2Config, {"steps": 1, "batch_size": 1, "lr": 1.0, wrong: 3})


def test_overrides_leave_the_given_values_alone_and_keep_the_order() -> None:
    values = {"parts": {"z": {"weight": 1}, "a": {"weight": 2}}}
    changed = override(values, ["parts.z.weight=7", "rate=1e-4"])
    assert changed == {"parts": {"z": {"weight": 7}, "a": {"weight": 2}}, "rate": 1e-4}
    assert list(changed["parts"]) == ["z", "a"]
    assert values["parts"]["z"]["weight"] == 1
    for wrong in ("steps", "=1", "parts.z.weight.more=1"):
        with pytest.raises(ConfigError, match="override"):
            override(values, [wrong])


class Nested(Config):
    """A configuration that holds its own kind."""

    height: int = 0
    branches: dict[str, Nested] = {}


def test_a_key_inside_a_configuration_that_holds_its_own_kind_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'branches.a.hight'; did you mean 'height'"):
        parse(Nested, {"branches": {"a": {"hight": 1}}}, "here")
