"""Styles: the ranges from which tempo, drums, bass and instruments are drawn. Deliberately wide."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    name: str
    tempo: tuple[int, int]
    swing: float  # probability of swung off-beats
    meters: tuple[int, ...]
    drums: tuple[str, ...]  # patterns in drumming.PATTERNS; "none" for no drums
    kits: tuple[str, ...]
    bass: tuple[str, ...]  # patterns in bassline.PATTERNS
    bass_sounds: tuple[str, ...]
    comp: tuple[str, ...]  # patterns in comping.PATTERNS
    sounds: tuple[str, ...]  # instruments for chords
    leads: tuple[str, ...]  # instruments for lines between the singing
    sevenths: float
    density: tuple[float, float]  # sung syllables a second


ALL_KITS = ("acoustic", "electronic", "eight", "lofi", "brush", "industrial")
STYLES = (
    Style("pop", (84, 132), 0.1, (4,), ("backbeat", "four", "half", "sixteen"), ("acoustic", "electronic", "eight"),
          ("eighths", "roots", "syncopated", "octaves"), ("picked", "synth", "fm", "sub"),
          ("block", "arpeggio", "pulse", "strum", "pad"), ("piano", "saw", "epiano", "guitar", "pluck", "strings"),
          ("square", "bell", "saw", "guitar", "flute"), 0.2, (1.8, 3.8)),
    Style("rock", (96, 168), 0.05, (4,), ("backbeat", "drive", "half"), ("acoustic", "industrial", "lofi"),
          ("eighths", "roots", "syncopated"), ("picked", "picked", "growl"),
          ("power", "power", "strum", "block"), ("distorted", "distorted", "guitar", "organ", "piano"),
          ("distorted", "organ", "guitar"), 0.05, (1.8, 3.6)),
    Style("electronic", (108, 150), 0.05, (4,), ("four", "four", "break", "sixteen"),
          ("electronic", "eight", "industrial"),
          ("octaves", "offbeat", "pulse", "syncopated"), ("synth", "sub", "fm", "growl"),
          ("pulse", "arpeggio", "pad", "offbeat"), ("saw", "supersaw", "pluck", "square", "fm", "choir"),
          ("square", "saw", "bell", "fm"), 0.2, (1.2, 3.0)),
    Style("hip hop", (70, 100), 0.4, (4,), ("boom", "half", "trap"), ("eight", "lofi", "electronic"),
          ("roots", "syncopated", "long"), ("sub", "synth", "picked"),
          ("block", "arpeggio", "pad", "offbeat"), ("epiano", "piano", "pluck", "strings", "bell", "organ"),
          ("bell", "flute", "square"), 0.5, (2.6, 4.6)),
    Style("folk", (80, 132), 0.2, (4, 3, 6), ("none", "brush", "shaker", "stomp"), ("brush", "acoustic"),
          ("roots", "fifths", "long"), ("upright", "picked"),
          ("strum", "fingers", "arpeggio"), ("guitar", "guitar", "nylon", "harp", "accordion"),
          ("flute", "fiddle", "accordion", "nylon"), 0.1, (1.6, 3.4)),
    Style("ballad", (60, 88), 0.05, (4, 3, 6), ("none", "half", "brush", "backbeat"), ("acoustic", "brush", "eight"),
          ("long", "roots", "fifths"), ("upright", "picked", "sub"),
          ("block", "fingers", "pad", "arpeggio"), ("piano", "piano", "strings", "nylon", "epiano", "harp"),
          ("strings", "flute", "fiddle", "bell"), 0.4, (1.2, 2.6)),
    Style("jazz", (84, 168), 0.9, (4, 3), ("swing", "brush", "bossa"), ("brush", "acoustic"),
          ("walking", "fifths"), ("upright",),
          ("comp", "comp", "pad", "block"), ("piano", "epiano", "nylon", "organ", "vibes"),
          ("vibes", "flute", "brass", "nylon"), 0.95, (1.4, 3.2)),
    Style("funk", (92, 120), 0.2, (4,), ("sixteen", "break", "backbeat"), ("acoustic", "lofi"),
          ("syncopated", "octaves"), ("picked", "growl", "synth"),
          ("comp", "offbeat", "pulse"), ("clav", "epiano", "guitar", "organ", "brass"),
          ("brass", "clav", "square"), 0.7, (2.0, 4.0)),
    Style("reggae", (72, 96), 0.3, (4,), ("onedrop", "onedrop", "half"), ("acoustic", "lofi", "eight"),
          ("syncopated", "roots"), ("sub", "picked"),
          ("offbeat",), ("organ", "guitar", "piano", "clav"), ("organ", "brass", "flute"), 0.2, (1.8, 3.6)),
    Style("latin", (92, 128), 0.0, (4,), ("bossa", "clave", "shaker"), ("acoustic", "brush"),
          ("fifths", "tumbao"), ("upright", "picked"),
          ("comp", "fingers", "arpeggio"), ("nylon", "piano", "guitar", "marimba"),
          ("brass", "flute", "marimba", "accordion"), 0.5, (1.8, 3.6)),
    Style("ambient", (60, 96), 0.0, (4, 3), ("none", "none", "half", "shaker"), ("eight", "lofi", "brush"),
          ("long", "none"), ("sub", "synth", "fm"),
          ("pad", "pad", "arpeggio"), ("strings", "choir", "supersaw", "glass", "harp", "bell"),
          ("bell", "flute", "glass"), 0.5, (0.9, 2.0)),
    Style("metal", (120, 176), 0.0, (4,), ("drive", "double", "half"), ("acoustic", "industrial"),
          ("eighths", "pulse"), ("growl", "picked"),
          ("power", "chug"), ("distorted", "distorted"), ("distorted", "strings", "organ"), 0.0, (1.8, 4.0)),
    Style("country", (88, 144), 0.3, (4, 3), ("train", "backbeat", "brush"), ("acoustic", "brush"),
          ("fifths", "roots", "walking"), ("picked", "upright"),
          ("strum", "fingers"), ("guitar", "piano", "nylon", "organ"), ("fiddle", "guitar", "accordion"), 0.1,
          (1.8, 3.6)),
    Style("retro", (100, 160), 0.1, (4,), ("four", "backbeat", "sixteen"), ("eight", "electronic", "lofi"),
          ("pulse", "octaves", "eighths"), ("synth", "fm", "square"),
          ("arpeggio", "pulse", "block"), ("square", "fm", "supersaw", "bell", "brass"),
          ("square", "fm", "brass"), 0.2, (1.6, 3.6)),
)  # fmt: skip
STYLE_SHARES = (0.16, 0.12, 0.1, 0.08, 0.1, 0.09, 0.06, 0.05, 0.04, 0.04, 0.04, 0.03, 0.05, 0.04)
