"""A listening test in the layout of webMUSHRA (github.com/audiolabs/webMUSHRA, read at 07130f2): `configs/NAME.yaml` and its sounds.

Conditions and files have names that tell nothing; `key.csv` beside `configs` says what each was.
"""

from __future__ import annotations

import csv
import html
import io
import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from duotok.errors import DuoTokError
from duotok.files import writing
from duotok.listening.plan import REFERENCE, ListeningTest, Sound
from duotok.listening.scale import GRADES

LONGEST_STRICT = 12.0
MOST_STRICT = 12
"""webMUSHRA's own limits for a page that keeps to ITU-R BS.1534: seconds, and conditions."""


def export(test: ListeningTest, folder: Path, name: str) -> list[Path]:
    """Write `folder`: copy its `configs` into webMUSHRA and open `/?config=NAME.yaml`. Returns the configuration and the key.

    Raises DuoTokError for a folder that is there already, or a name that is no plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise DuoTokError(f"--name {name}: take letters, digits, '-' and '_'")
    if os.path.lexists(folder):
        raise DuoTokError(f"{folder}: there already; name a new folder with -o")
    try:
        with writing(folder) as partial:
            resources = partial / "configs" / "resources" / name
            resources.mkdir(parents=True)
            for sound in test.plan.sounds:
                shutil.copyfile(test.path(sound), resources / f"{sound.id}.wav")
            shutil.copyfile(test.level, resources / "level.wav")
            (partial / "configs" / f"{name}.yaml").write_text(as_yaml(config(test, name)), encoding="utf-8")
            (partial / "key.csv").write_text(_key(test), encoding="utf-8")
    except OSError as error:
        raise DuoTokError(f"{folder}: cannot be written ({error.strerror}); name another folder with -o") from None
    return [folder / "configs" / f"{name}.yaml", folder / "key.csv"]


def config(test: ListeningTest, name: str) -> dict[str, Any]:
    """webMUSHRA's configuration. MUSHRA: a page for each clip, to which webMUSHRA itself adds the hidden reference; MOS: a page for
    each sound. Its order is drawn by webMUSHRA."""
    plan = test.plan

    def address(sound: Sound) -> str:
        return f"configs/resources/{name}/{sound.id}.wav"

    pages: list[Any] = ["random"]
    if plan.method == "mushra":
        for clip in plan.clips:
            of = [sound for sound in plan.sounds if sound.clip == clip.id]
            reference = next(sound for sound in of if sound.system == REFERENCE)
            others = {_stimulus(sound): address(sound) for sound in of if sound is not reference}
            pages.append(
                {
                    "type": "mushra", "id": f"c{clip.id}", "name": "Rate each sound",
                    "content": "Compare each sound with the reference, and rate how good it is. One of them is the reference itself.",
                    "showWaveform": False, "enableLooping": True, "randomize": True, "showConditionNames": False,
                    "strict": clip.seconds <= LONGEST_STRICT and len(of) <= MOST_STRICT,
                    "reference": address(reference), "createAnchor35": False, "createAnchor70": False, "stimuli": others,
                }
            )  # fmt: skip
    else:
        response = [
            {"value": g.value, "label": f"<b>{g.value} {g.word}</b><br/>{html.escape(g.meaning)}"} for g in GRADES
        ]
        for sound in plan.sounds:
            pages.append(
                {
                    "type": "likert_single_stimulus", "id": f"c{sound.clip}", "name": "How good does it sound?",
                    "content": "Play the clip, then say how good it sounds.", "mustRate": True, "mustPlayback": "processUpdate",
                    "stimuli": {_stimulus(sound): address(sound)}, "response": response,
                }
            )  # fmt: skip
    volume = {
        "type": "volume", "id": "volume", "name": "Volume", "content": "This noise is as loud as the clips.",
        "stimulus": f"configs/resources/{name}/level.wav", "defaultVolume": 0.5,
    }  # fmt: skip
    finish = {
        "type": "finish",
        "name": "Thank you",
        "content": "Thank you.",
        "showResults": False,
        "writeResults": True,
    }
    return {
        "testname": html.escape(plan.title), "testId": name, "bufferSize": 2048, "stopOnErrors": True,
        "showButtonPreviousPage": True, "remoteService": "service/write.php", "pages": [volume, pages, finish],
    }  # fmt: skip


def _stimulus(sound: Sound) -> str:
    """With a letter first: digits with an "e" between them would be a number to some readers of YAML."""
    return f"s{sound.id}"


def as_yaml(settings: dict[str, Any]) -> str:
    """The configuration as webMUSHRA's own reader takes it: a list inside a list begins on a line of its own, no line is folded."""
    head = {name: value for name, value in settings.items() if name != "pages"}
    lines = [*_dump(head), "pages:"]
    for page in settings["pages"]:
        if isinstance(page, list):
            lines.append("  -")
            lines += [line for inner in page for line in _item(inner, 6)]
        else:
            lines += _item(page, 2)
    return "\n".join(lines) + "\n"


def _item(value: Any, indent: int) -> list[str]:
    first, *rest = [value] if isinstance(value, str) else _dump(value)
    return [" " * indent + "- " + first, *(" " * indent + "  " + line for line in rest)]


class _Indented(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _dump(values: dict[str, Any]) -> list[str]:
    text = yaml.dump(values, Dumper=_Indented, sort_keys=False, allow_unicode=True, width=10**6)
    return text.splitlines()


def _key(test: ListeningTest) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["trial_id", "stimulus", "condition", "song", "track", "start"])
    for sound in test.plan.sounds:
        clip = test.clips[sound.clip]
        name = REFERENCE if test.plan.method == "mushra" and sound.system == REFERENCE else _stimulus(sound)
        out.writerow([f"c{clip.id}", name, sound.system, clip.song, clip.track, f"{clip.start:g}"])
    return text.getvalue()
