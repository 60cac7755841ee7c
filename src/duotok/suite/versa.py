"""Decoded sounds for VERSA (github.com/wavlab-speech/versa), so that its ninety-odd metrics can be had of the same sounds.

    KEPT/TOKENIZER/TRACK/SONG.wav, KEPT/original/TRACK/SONG.wav    mono, 48 kHz, at the level of comparison
    KEPT/TOKENIZER/TRACK.scp, KEPT/original/TRACK.scp              `SONG PATH` a line, the songs that both have
    KEPT/versa.yaml                                                metrics for music, of those that need no text

    versa-score --pred KEPT/TOKENIZER/TRACK.scp --gt KEPT/original/TRACK.scp --io soundfile --score_config KEPT/versa.yaml \
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


def write_lists(kept: Path) -> list[Path]:
    """The lists of every tokenizer and track, of songs whose original is there too, and the YAML, last. Raises ConfigError for paths
    with blanks or line breaks, which a list of Kaldi cannot have, and OSError."""
    root = kept.absolute()
    if any(c.isspace() for c in str(root)):
        raise ConfigError(
            f"{root}: lists for VERSA cannot have paths with blanks; choose another folder for --keep-audio"
        )
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
