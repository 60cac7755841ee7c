"""Songs that sing, made from a seed: true stems, words, notes, chords and beats.

from duotok.songs import generate
song = generate(7, seconds=30)
song.save("song-7")
"""

from duotok.songs.generator import generate
from duotok.songs.many import GeneratedSong, generate_many
from duotok.songs.song import Beat, ChordSpan, Song, Sung, VocalNote, Word
from duotok.tracks import STEMS

__all__ = [
    "STEMS",
    "Beat",
    "ChordSpan",
    "GeneratedSong",
    "Song",
    "Sung",
    "VocalNote",
    "Word",
    "generate",
    "generate_many",
]
