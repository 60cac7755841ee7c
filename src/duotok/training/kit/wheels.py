"""Find the wheels that DuoTok needs on another machine, with another Python or platform.

Requirements are followed from DuoTok's own metadata, wheel by wheel (`pip download --no-deps`), and end at distributions that
the machine has already, so that the gigabytes of torch stay out.
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.parser import BytesParser
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from duotok.errors import ConfigError, DuoTokError

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.version import Version

# Platform -> what Python's `platform` calls it (system, machine), and the tags of wheels that run there.
_GLIBC = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 29)), "linux")
PLATFORMS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "linux-x86_64": ("Linux", "x86_64", tuple(f"{tag}_x86_64" for tag in reversed(_GLIBC))),
    "linux-aarch64": ("Linux", "aarch64", tuple(f"{tag}_aarch64" for tag in reversed(_GLIBC) if tag not in _GLIBC[:2])),
    "macos-arm64": ("Darwin", "arm64", tuple(f"macosx_{n}_0_{kind}" for n in (14, 13, 12, 11) for kind in ("arm64", "universal2"))),
    "macos-x86_64": (
        "Darwin", "x86_64",
        tuple(f"macosx_{n}_{kind}" for n in ("14_0", "13_0", "12_0", "11_0", "10_15", "10_13", "10_12", "10_9")
              for kind in ("x86_64", "universal2")),
    ),
}  # fmt: skip
ROUNDS = 30


@dataclass(frozen=True)
class Target:
    """The Python ("3.12") and the platform (one of PLATFORMS) that the wheels are for."""

    python: str
    platform: str

    def __post_init__(self) -> None:
        match = re.fullmatch(r"3\.(\d{1,2})", self.python)
        if match is None or int(match[1]) < 11:
            raise ConfigError(f"--python {self.python}: write 3.11 or newer, as in 3.12")
        if self.platform not in PLATFORMS:
            near = difflib.get_close_matches(self.platform, PLATFORMS, 1, 0.0)[0]
            raise ConfigError(f"--platform {self.platform}: there are {', '.join(PLATFORMS)}; did you mean {near}?")

    @property
    def system(self) -> str:
        return PLATFORMS[self.platform][0]

    @property
    def machine(self) -> str:
        return PLATFORMS[self.platform][1]

    @property
    def tags(self) -> tuple[str, ...]:
        return PLATFORMS[self.platform][2]

    @property
    def markers(self) -> dict[str, str]:
        """The environment for evaluating the markers of requirements."""
        return {
            "python_version": self.python, "python_full_version": f"{self.python}.99", "os_name": "posix",
            "sys_platform": self.system.lower(), "platform_system": self.system, "platform_machine": self.machine,
            "implementation_name": "cpython", "platform_python_implementation": "CPython",
            "implementation_version": f"{self.python}.99", "platform_release": "", "platform_version": "",
        }  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Sources of pip besides its own settings: folders of wheels, no index at all, a file of constraints."""

    find_links: Sequence[str] = ()
    no_index: bool = False
    constraint: Path | None = None

    def words(self) -> list[str]:
        words = [f"--find-links={folder}" for folder in self.find_links]
        words += ["--no-index"] if self.no_index else []
        return words + (["--constraint", str(self.constraint)] if self.constraint else [])


@dataclass
class Wheel:
    """A wheel in a folder, with its metadata."""

    path: Path
    name: str
    version: Version
    requires: list[Requirement] = field(default_factory=list)


def read_wheel(path: Path) -> Wheel:
    """A wheel and its metadata. Raises ConfigError for any other file."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    try:
        name, version, _, _ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as wheel:
            inside = next(n for n in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
            requirements = BytesParser().parsebytes(wheel.read(inside)).get_all("Requires-Dist", [])
        return Wheel(path, str(canonicalize_name(name)), version, [Requirement(str(text)) for text in requirements])
    except (OSError, StopIteration, zipfile.BadZipFile, InvalidWheelFilename, InvalidRequirement) as error:
        raise ConfigError(f"{path}: no usable wheel ({str(error) or 'without METADATA'}); get it again") from None


def duotok_requirements(extras: Sequence[str]) -> list[Requirement]:
    """The requirements of DuoTok with these extras, from its installed metadata. Raises ConfigError."""
    from packaging.requirements import Requirement

    try:
        package = metadata.metadata("duotok")
    except metadata.PackageNotFoundError:
        raise ConfigError("duotok is not installed here, so nothing says what it requires: pip install -e .") from None
    available = package.get_all("Provides-Extra", [])
    for extra in extras:
        if extra not in available:
            raise ConfigError(f"--extra {extra}: there are {', '.join(sorted(available))}")
    return [Requirement(text) for text in metadata.requires("duotok") or ()]


def parse_have(names: Sequence[str]) -> dict[str, str]:
    """`NAME` or `NAME==VERSION`, with commas -> name as the index writes it -> version or "". Raises ConfigError."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    for text in (part.strip() for item in names for part in item.split(",")):
        if not text:
            continue
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise ConfigError(f"--have {text}: write NAME or NAME==VERSION, with commas between") from None
        exact = [spec.version for spec in requirement.specifier if spec.operator == "=="]
        if len(exact) != len(requirement.specifier):
            raise ConfigError(f"--have {text}: write NAME or NAME==VERSION, with commas between")
        versions[str(canonicalize_name(requirement.name))] = exact[0] if exact else ""
    return versions


class Resolver:
    """From requirements to wheels in `folder`, for a target that has the distributions `have` already.

    check: called with the wheels so far whenever some were fetched; what it raises ends the walk before more are.
    """

    def __init__(
        self, target: Target, have: Mapping[str, str], folder: Path, sources: Sources, tell: Callable[[str], None],
        check: Callable[[Sequence[Wheel]], None] = lambda wheels: None,
    ) -> None:  # fmt: skip
        self.target, self.have, self.folder, self.sources, self.tell = target, have, folder, sources, tell
        self.check = check
        self.wheels: dict[str, Wheel] = {}
        self.used: set[str] = set()

    def resolve(self, extras: Sequence[str]) -> list[Wheel]:
        """The wheels of DuoTok's requirements and of all that follow. Raises DuoTokError naming what has no wheel."""
        roots = duotok_requirements(extras)
        for _ in range(ROUNDS):
            needed = self._needed(roots, extras)
            missing = {name: specs for name, specs in needed.items() if not self._fits(name, specs)}
            if not missing:
                return [self.wheels[name] for name in sorted(needed)]
            self.tell(f"wheels: {', '.join(sorted(missing))}")
            self._download([_text(name, specs) for name, specs in sorted(missing.items())], missing)
            self.check(list(self.wheels.values()))
        raise DuoTokError(
            f"wheels: requirements contradict each other around {', '.join(sorted(missing))}; give --requirement FILE"
        )

    def _needed(self, roots: list[Requirement], extras: Sequence[str]) -> dict[str, list[str]]:
        """Name -> version specifiers, of all that are reached from DuoTok's own requirements through the wheels so far."""
        from packaging.utils import canonicalize_name

        self.used = set()
        needed: dict[str, list[str]] = {}
        waiting: list[tuple[list[Requirement], frozenset[str]]] = [(roots, frozenset(extras))]
        seen: set[tuple[str, frozenset[str]]] = set()
        while waiting:
            requirements, active = waiting.pop()
            for requirement in requirements:
                if not self._applies(requirement, active):
                    continue
                name = str(canonicalize_name(requirement.name))
                if name in self.have:
                    self._check_have(name, requirement)
                    continue
                if name != "duotok":
                    needed.setdefault(name, []).append(str(requirement.specifier))
                key = (name, frozenset(requirement.extras))
                if key not in seen and (name == "duotok" or name in self.wheels):
                    seen.add(key)
                    waiting.append((roots if name == "duotok" else self.wheels[name].requires, key[1]))
        return needed

    def _applies(self, requirement: Requirement, extras: frozenset[str]) -> bool:
        if requirement.marker is None:
            return True
        return any(requirement.marker.evaluate({**self.target.markers, "extra": extra}) for extra in extras or {""})

    def _check_have(self, name: str, requirement: Requirement) -> None:
        self.used.add(name)
        version = self.have[name]
        if version and not requirement.specifier.contains(version, prereleases=True):
            raise ConfigError(
                f"--have {name}=={version}: {requirement.name}{requirement.specifier} is needed; leave it out of --have"
            )

    def _fits(self, name: str, specs: Sequence[str]) -> bool:
        from packaging.specifiers import SpecifierSet

        wheel = self.wheels.get(name)
        return wheel is not None and all(SpecifierSet(s).contains(wheel.version, prereleases=True) for s in specs)

    def _download(self, requirements: Sequence[str], names: Mapping[str, object]) -> None:
        place = self.folder / ".new"
        shutil.rmtree(place, ignore_errors=True)
        download(requirements, self.target, place, self.sources)
        for path in sorted(place.glob("*.whl")):
            wheel = read_wheel(path)
            if wheel.name in self.wheels:
                self.wheels[wheel.name].path.unlink()
            wheel.path = path.rename(self.folder / path.name)
            self.wheels[wheel.name] = wheel
        missing = next((name for name in names if name not in self.wheels), None)
        if missing is not None:
            raise DuoTokError(f"wheels: pip brought none of {missing}; look at `pip download {missing}`")


def _text(name: str, specs: Sequence[str]) -> str:
    return name + ",".join(sorted({part for spec in specs for part in spec.split(",") if part}))


def from_list(file: Path, target: Target, folder: Path, sources: Sources) -> list[Wheel]:
    """The wheels that a requirements file lists, and no others."""
    if not file.is_file():
        raise ConfigError(f"--requirement {file}: no such file; check the path")
    download(["-r", str(file)], target, folder, sources)
    return [read_wheel(path) for path in sorted(folder.glob("*.whl"))]


def download(requirements: Sequence[str], target: Target, folder: Path, sources: Sources) -> None:
    """`pip download --no-deps` for a target. Raises DuoTokError in one line: which package has no wheel, or no network."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--only-binary=:all:",
         "--implementation=cp", f"--python-version={target.python}", *(f"--platform={tag}" for tag in target.tags),
         "--progress-bar=off", f"--dest={folder}", *sources.words(), *requirements],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0:
        return
    no_wheel = re.search(r"No matching distribution found for (.+?)(?: \(from .*\))?$", done.stderr, re.MULTILINE)
    # pip's message where a constraint also applies to it.
    no_wheel = no_wheel or re.search(
        r"Cannot install (.+?) because these package versions have conflicting", done.stderr
    )
    if re.search(r"Retrying \(|NewConnectionError|Temporary failure in name resolution", done.stderr):
        raise DuoTokError(
            "wheels: the package index cannot be reached; give --find-links FOLDER with the wheels and --no-index"
        )
    if no_wheel is not None:
        raise DuoTokError(
            f"no wheel of {no_wheel[1].strip()} for Python {target.python} on {target.platform}: name it in --have if that machine "
            "has it, choose another --python or --platform, or put its wheel into a folder and give --find-links FOLDER"
        )
    problem = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), done.stderr.strip()[-200:])
    raise DuoTokError(
        f"wheels: pip failed ({problem.removeprefix('ERROR: ')}); check --find-links, --constraint and the network"
    )
