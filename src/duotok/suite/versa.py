"""Decoded sounds for VERSA (github.com/wavlab-speech/versa), so that its ninety-odd metrics can be had of the same sounds.

    KEPT/TOKENIZER/TRACK/SONG.wav, KEPT/reference/TRACK/SONG.wav    mono, 48 kHz, at the level of comparison
    KEPT/TOKENIZER/TRACK.scp, KEPT/reference/TRACK.scp              `SONG PATH` a line, the songs that both have
    KEPT/versa.yaml                                                metrics for music, of those that need no text

    versa-score --pred KEPT/TOKENIZER/TRACK.scp --gt KEPT/reference/TRACK.scp --io soundfile --score_config KEPT/versa.yaml \
        --output_file scores.jsonl
"""

from __future__ import annotations

from pathlib import Path

from duotok.errors import ConfigError
from duotok.evaluation.instrument import MIX
from duotok.files import write_bytes
from duotok.suite.units import ORIGINAL
from duotok.tracks import TRACKS

YAML = """\
# Metrics of VERSA for music, on sounds that `duotok eval reconstruction --keep-audio` wrote. All need the original, none a text.
- name: signal_metric
- name: pesq
- name: stoi
- name: visqol
  model: default
- name: chroma_alignment
  sample_rate: 22050
  feature_types: ["stft", "cqt", "cens"]
  distance_metrics: ["cosine", "euclidean"]
  scale_factor: 100.0
  normalize: True
  normalize_by_path: True
  return_alignment: False
  chroma_kwargs: {}
"""
FILE = "versa.yaml"


def check_folder(kept: Path) -> None:
    """Mark a new or empty folder as one of kept sounds. Raises ConfigError for a folder of something else, or a path with blanks."""
    if any(c.isspace() for c in str(kept.absolute())):
        raise ConfigError(
            f"{kept.absolute()}: lists for VERSA cannot have paths with blanks; choose another --keep-audio"
        )
    if kept.is_dir() and any(kept.iterdir()) and not (kept / FILE).is_file():
        raise ConfigError(f"{kept}: holds other files; choose a new or empty folder for --keep-audio")
    write_bytes(kept / FILE, YAML.encode())


def write_lists(kept: Path) -> list[Path]:
    """The lists of every tokenizer and track, of songs whose original is there too, and the YAML, last. Raises OSError."""
    root = kept.absolute()
    written = list[Path]()
    for name in sorted(path.name for path in root.iterdir() if path.is_dir()):
        for track in (*TRACKS, MIX):
            lines = [
                f"{path.stem} {path}\n"
                for path in sorted((root / name / track).glob("*.wav"))
                if (root / ORIGINAL / track / path.name).is_file()
            ]
            if lines:
                written.append(kept / name / f"{track}.scp")
                write_bytes(written[-1], "".join(lines).encode())
    write_bytes(kept / FILE, YAML.encode())
    return [*written, kept / FILE]
