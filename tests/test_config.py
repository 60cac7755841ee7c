"""Configurations: layers of YAML, overrides, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import model_validator

from duotok.codec.bundle import CodecConfig
from duotok.comparison.plan import ComparisonConfig
from duotok.config import (
    RECIPES,
    Config,
    base_folder,
    config_file,
    config_folder,
    load_config,
    merged,
    override,
    parse,
    read_yaml,
    recipe_names,
)
from duotok.errors import ConfigError
from duotok.renderer.dit import DiTConfig
from duotok.training.stage import StageConfig


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
        ({"a": "extends: ../none.yaml"}, r"a\.yaml, which extends \.\./none\.yaml: no such file, and no recipe"),
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


# -- packaged recipes ------------------------------------------------------------------------------------------------


def test_a_name_without_a_file_is_that_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"mini/stage1", "ablations/plain-vq/stage3", "lm/mini"} <= set(recipe_names())
    for name in recipe_names():
        assert config_file(name) == RECIPES / f"{name}.yaml"
        assert read_yaml(name)
    assert base_folder("comparisons/ablations") == Path()


def test_a_file_comes_before_a_recipe_and_a_copy_beside_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, mini__stage1="steps: 3")
    assert read_yaml("mini/stage1.yaml") == {"steps": 3}
    assert base_folder("mini/stage1.yaml") == Path("mini")
    assert caplog.messages == []
    assert config_file("mini/stage1").is_relative_to(RECIPES)
    assert [m for m in caplog.messages if "not the file mini/stage1.yaml" in m]
    (tmp_path / "mini" / "stage1").write_text("steps: 4")
    assert read_yaml("mini/stage1") == {"steps": 4}


def test_a_file_of_ones_own_extends_a_recipe_by_name(tmp_path: Path) -> None:
    top = write(tmp_path, a="extends: gpu/stage1\nlr: 0.5")
    values = read_yaml(top)
    assert values == {**read_yaml("gpu/stage1"), "lr": 0.5}
    assert values["model"]["width"] == read_yaml("mini/stage1")["model"]["width"]
    write(tmp_path, gpu__stage1="steps: 3")
    with pytest.raises(ConfigError, match=r"extends gpu/stage2x: no such file, .* nearest is gpu/stage2, `duotok"):
        read_yaml(write(tmp_path, b="extends: gpu/stage2x"))
    assert read_yaml(write(tmp_path, b="extends: gpu/stage1.yaml")) == {"steps": 3}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mini/sage1", "mini/stage1"),
        ("old/mini/stage2.yaml", "mini/stage2"),
        ("/nowhere/ablations/plain-vq/stage3.yaml", "ablations/plain-vq/stage3"),
        ("lm/mimi", "lm/mini"),
    ],
)
def test_an_unknown_name_tells_the_nearest_and_where_all_are(name: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: no such file, .*; the nearest is {near}, `duotok recipes list`"):
        config_file(name)
    mine = write(tmp_path, mine="steps: 3").with_suffix("")
    with pytest.raises(ConfigError, match=r"name .*mine\.yaml with its ending"):
        config_file(mine)


def test_sets_of_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_folder("ablations/plain-vq") == RECIPES / "ablations" / "plain-vq"
    (tmp_path / "mini").mkdir()
    assert config_folder("mini") == RECIPES / "mini", "a folder without YAML is not meant"
    write(tmp_path, mini__stage1="steps: 3")
    assert config_folder("mini") == Path("mini")
    with pytest.raises(ConfigError, match=r"minni: no such folder, .* nearest is mini"):
        config_folder("minni")


class Branching(Config):
    """Holds its own kind."""

    leaf: int = 0
    below: list[Branching] = []


def test_a_configuration_inside_its_own_kind() -> None:
    with pytest.raises(ConfigError, match=r"unknown key .below\.0\.laef.; did you mean .leaf."):
        parse(Branching, {"below": [{"laef": 1}]})


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", ".inf", ".nan"])
@pytest.mark.parametrize(
    ("model", "key"),
    [
        (Tree, "rate"),
        (CodecConfig, "temperature"),
        (DiTConfig, "guidance"),
        (StageConfig, "minutes"),
        (StageConfig, "lr"),
    ],
)
def test_no_number_is_infinite_or_nan(model: type[Config], key: str, text: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse(
            model,
            override({"steps": 1, "batch_size": 1, "lr": 1.0} if model is StageConfig else {}, [f"{key}={text}"]),
            "a.yaml",
        )
    value = float(text.replace(".", ""))
    assert str(told.value) == f"a.yaml: '{key}' = {value}: Input should be a finite number"


def test_a_missing_key_is_named_alone() -> None:
    """Not with all the rest of the configuration, which is what was read in its place."""

    class Needs(Config):
        steps: int
        rate: float = 1.0

    with pytest.raises(ConfigError) as told:
        parse(Needs, {"rate": 2.0}, "a.yaml")
    assert str(told.value) == "a.yaml: 'steps' is missing, and has no default"


def test_values_that_do_not_go_together_are_told_without_the_whole_section() -> None:
    values = {"tokenizers": {"a": "a.parquet"}, "lm": {"steps": 1}, "protocols": ["parallel"], "corruption": {}}
    with pytest.raises(ConfigError) as caught:
        parse(ComparisonConfig, values, "FILE")
    assert str(caught.value) == "FILE: corruption needs a protocol with a source, e.g. vocals-to-accompaniment"

    class Range(Config):
        low: int
        high: int

        @model_validator(mode="after")
        def _ordered(self) -> Range:
            if self.low > self.high:
                raise ValueError(f"low {self.low} is above high {self.high}")
            return self

    class Outer(Config):
        inner: Range

    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"inner": {"low": 2, "high": 1}}, "FILE")
    assert str(caught.value) == "FILE: 'inner': low 2 is above high 1"
