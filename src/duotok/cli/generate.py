"""`duotok generate`: music out of a language model over tokens."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotok.cli.console import Bars, open_model, progress_bars, put_json, say
from duotok.errors import AudioError, BundleError, ConfigError, DuoTokError

if TYPE_CHECKING:
    from duotok.codec.duotok import DuoTok
    from duotok.lm.generate import GeneratedTokens, Given
    from duotok.lm.saved import LanguageModel
    from duotok.tokens import DualTokens

SECONDS = 30.0
DAY = 86_400.0
"""Seconds; longer songs are mistakes."""
LARGEST_SEED = 2**32 - 1
MONOTONE = 0.8
"""Share of one code above which a track counts as a drone."""


def generate(
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.wav (or another kind of sound) and NAME.duotok; NAME.duotok alone; or a folder/.")],
    lm: Annotated[str, typer.Option(help="The language model: folder of a training run, exported folder, or the package's own.")] = "mini",
    song: Annotated[Path | None, typer.Option("--continue", help="A song that goes on: sound or .duotok.")] = None,
    vocals: Annotated[Path | None, typer.Option(help="A song whose vocals get a new accompaniment: sound or .duotok.")] = None,
    accompaniment: Annotated[Path | None, typer.Option(help="A song whose accompaniment gets new vocals: sound or .duotok.")] = None,
    stem: Annotated[bool, typer.Option("--stem", help="The sound of --vocals or --accompaniment is that track alone; nothing is separated.")] = False,
    keep: Annotated[float | None, typer.Option(min=0, max=DAY, help="Seconds of both tracks that stay. Default: all of --continue, else 0.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.04, max=DAY, help="Length in all. Default: 30, 30 more than stays, or the track's.")] = None,
    at_least: Annotated[float | None, typer.Option(min=0, max=DAY, help="From here the model may end the song. Default: exactly --seconds.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="The same seed gives the same tokens.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="So many candidates at once, with seeds that count on from --seed.")] = 1,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest code; 1: as the model says.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest codes; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest codes that together have this probability; 1: all.")] = 1.0,
    model: Annotated[str, typer.Option(help="The bundle whose tokens the language model learned: a name, folder, or owner/name.")] = "mini",
    force: Annotated[bool, typer.Option("--force", help="Replace files that are already there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be made; make and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a candidate on stdout.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
) -> None:  # fmt: skip
    """Make music: from nothing, going on with a song, or one track for a given other one.

    The tokens come from the language model, the sound from the bundle's renderer. Sound that is given is separated and
    encoded first; the given tokens stay as they are. With --count, and in a folder, the files are NAME.seed-N.wav; --seed N
    makes that one again.

    \b
      duotok generate -o new.wav --seconds 30 --seed 1                       the small model of the package
      duotok generate --lm runs/lm -o new.wav --seconds 30 --seed 1
      duotok generate --lm runs/lm -o new.wav --count 4 --temperature 0.8 --top-k 100
      duotok generate --lm runs/lm --continue song.duotok --keep 10 --seconds 40 -o longer.wav
      duotok generate --lm runs/lm.vocals-to-accompaniment --vocals song.mp3 --keep 2 -o band.wav
      duotok generate --lm runs/lm.accompaniment-to-vocals --accompaniment band.wav --stem -o sung.wav
    """
    from duotok.cli.files import check_not_input
    from duotok.lm.generate import check_end, check_given, windows
    from duotok.lm.generate import generate as make
    from duotok.lm.sampling import TokenSampling
    from duotok.lm.saved import open_lm
    from duotok.tokens import SUFFIX

    given = {"song": song, "vocals": vocals, "accompaniment": accompaniment}
    chosen = [(what, path) for what, path in given.items() if path is not None]
    if len(chosen) > 1:
        raise ConfigError("--continue, --vocals and --accompaniment are three different tasks; give one of them")
    what, source = chosen[0] if chosen else ("", None)
    if stem and (what not in ("vocals", "accompaniment") or keep):
        raise ConfigError("--stem is about the file of --vocals or --accompaniment alone, of which there is no --keep")
    if keep is not None and source is None:
        raise ConfigError("--keep is about a given song; give one with --continue, --vocals or --accompaniment")
    if seed + count - 1 > LARGEST_SEED:
        raise ConfigError(
            f"--seed {seed} --count {count}: the last candidate would have seed {seed + count - 1}, and {LARGEST_SEED} is the largest; lower --seed"
        )
    sampling = TokenSampling(temperature, top_k, top_p)
    seeds = [seed + i for i in range(count)]
    if out.is_dir() or not out.suffix:
        out = out / f"{Path(source.name).stem if source else 'song'}.wav"
        targets = _targets(out, seeds, force, several=True)
    else:
        targets = _targets(out, seeds, force, several=count > 1)
    check_not_input([place for pair in targets for place in pair], [source])
    language = open_lm(lm, device)
    _check_task(language, lm, what)
    codec = open_model(model, device)
    _check_codec(language, lm, codec, model)
    if out.suffix.lower() != SUFFIX:
        codec.check_renders()

    with progress_bars(2 + count) as bars:
        tokens = None if source is None else _tokens(codec, source, what if stem else "", dry_run, bars)
        if seconds is None:
            stays = 0.0 if tokens is None or what != "song" else tokens.seconds if keep is None else keep
            seconds = SECONDS + stays if tokens is None or what == "song" else tokens.seconds
        frames = codec.n_frames(round(seconds * codec.sample_rate))
        check_end(at_least, frames / codec.frame_rate)
        fixed = {} if tokens is None or source is None else _given(tokens, what, keep, frames, source)
        given_frames = check_given(language.protocol, fixed, frames)
        if dry_run:
            shortest = min(given_frames[k] for k in language.protocol.scored)
            plan = windows(language.protocol, frames, shortest, language.protocol.codec.frames(language.seconds))
            _report(
                {"would make": [str(path) for path, _ in targets], "lm": str(language.source), "model": codec.model_id,
                 "protocol": language.protocol.name, "seconds": frames / codec.frame_rate, "windows": len(plan),
                 "given_seconds": shortest / codec.frame_rate, "seeds": seeds}, as_json,
            )  # fmt: skip
            return
        began = time.monotonic()
        with bars.file(f"tokens of {count} candidates" if count > 1 else "tokens") as advance:
            candidates = make(
                language,
                seeds,
                frames / codec.frame_rate,
                fixed,
                sampling=sampling,
                at_least=at_least,
                progress=advance,
            )
        elapsed = time.monotonic() - began
        ready = [_dual(candidate, codec, tokens, source, what) for candidate in candidates]
        for (_, beside), dual in zip(targets, ready, strict=True):
            dual.save(beside)
        for candidate in candidates:
            _warn_of_drone(candidate, {track: codes.shape[1] for track, codes in fixed.items()}, temperature)
        for (sound, beside), dual, candidate in zip(targets, ready, candidates, strict=True):
            facts: dict[str, Any] = {
                "tokens": str(beside), "seed": candidate.seed, "seconds": round(dual.seconds, 6), "ended": candidate.ended,
                "model_hash": dual.model_hash, "tokens_took_seconds": round(elapsed / count, 3),
            }  # fmt: skip
            if sound != beside:
                began = time.monotonic()
                try:
                    with bars.file(str(sound)) as advance:
                        codec.decode_to(sound, dual, progress=advance, seed=candidate.seed)
                except AudioError as error:
                    again = (
                        "duotok",
                        "decode",
                        str(beside),
                        "-o",
                        str(sound),
                        "--seed",
                        str(candidate.seed),
                        "--model",
                        model,
                    )
                    raise AudioError(f"{error}; the tokens are kept, later: {shlex.join(again)}") from None
                facts |= {"output": str(sound), "sound_took_seconds": round(time.monotonic() - began, 3)}
            _report(facts, as_json)


def _warn_of_drone(candidate: GeneratedTokens, given: dict[str, int], temperature: float) -> None:
    """Warn of a song with nearly always the same code: a drone, and most often silence."""
    import numpy as np

    shares = []
    for track, codes in candidate.tokens.items():
        new = codes[0, given.get(track, 0) :]
        if len(new) > 25:
            _, counts = np.unique(new, return_counts=True)
            shares.append((float(counts.max() / len(new)), track))
    drones = [f"{share:.0%} of its {track}" for share, track in shares if share > MONOTONE]
    if drones and (temperature == 0 or len(drones) == len(shares)):
        why = (
            "at temperature 0 a model falls silent easily" if temperature == 0 else "the model fell silent, most likely"
        )
        remedy = "another --seed" if temperature >= 1 else "--temperature 1 or another --seed"
        say(f"seed {candidate.seed}: one and the same code is {' and '.join(drones)}; {why}: try {remedy}")


def _targets(out: Path, seeds: list[int], force: bool, several: bool) -> list[tuple[Path, Path]]:
    """(output, its token file) for each seed; the same path twice for tokens alone."""
    from duotok.audio.io import WRITE_SUFFIXES
    from duotok.cli.files import check_writable
    from duotok.tokens import SUFFIX

    endings = (*WRITE_SUFFIXES, SUFFIX)
    if out.suffix.lower() not in endings:
        raise DuoTokError(f"{out}: cannot write '{out.suffix}'; name it {', '.join(f'NAME{e}' for e in endings)}")
    pairs = []
    for seed in seeds:
        path = out.with_name(f"{out.stem}.seed-{seed}{out.suffix}") if several else out
        pairs.append((path, path.with_suffix(SUFFIX)))
        for place in pairs[-1]:
            check_writable(place)
            if os.path.lexists(place) and not force:
                raise DuoTokError(f"{place}: is already there; --force replaces it, or choose another name with -o")
    return pairs


def _check_task(language: LanguageModel, name: str, what: str) -> None:
    """Raises ConfigError where a model from one track to another cannot do the task; a parallel one does all of them."""
    protocol = language.protocol
    if protocol.directed and what != protocol.source:
        raise ConfigError(
            f"{name}: makes {protocol.target} for given {protocol.source}; give --{protocol.source} FILE, or another --lm"
        )


def _check_codec(language: LanguageModel, name: str, codec: DuoTok, model: str) -> None:
    from duotok.lm.streams import codec_identity

    expected, actual = language.protocol.codec, codec_identity(codec)
    if (expected.hash, expected.streams) != (actual.hash, actual.streams):
        raise BundleError(
            f"{name}: learned the tokens of {expected}, --model {model} is {actual}; name the bundle it learned"
        )


def _tokens(codec: DuoTok, source: Path, alone: str, dry_run: bool, bars: Bars) -> DualTokens:
    """The tokens of a given file; in a dry run of sound, as many zeros. alone: the one track in the file, "" for both."""
    import torch

    from duotok.audio.io import probe
    from duotok.tokens import SUFFIX, DualTokens, load

    if source.suffix.lower() == SUFFIX:
        if alone:
            raise ConfigError(f"{source}: holds both tracks; leave --stem away")
        tokens = load(source)
        codec.check(tokens, str(source))
        return tokens
    if dry_run:
        samples = max(1, round(probe(source).seconds * codec.sample_rate))
        zeros = torch.zeros(codec.n_frames(samples), dtype=torch.int64)
        return DualTokens(zeros, zeros, samples, codebook_sizes=codec.codebook_sizes)
    with bars.file(str(source)) as advance:
        return codec.encode(source, **({alone: source} if alone else {}), progress=advance)  # type: ignore[arg-type]


def _given(tokens: DualTokens, what: str, keep: float | None, frames: int, source: Path) -> Given:
    """The kept part of a song, as `duotok.lm.generate` takes it. Raises ConfigError when the song is shorter."""
    from duotok.clock import FRAME_RATE
    from duotok.tracks import TRACKS

    kept_frames = tokens.n_frames if keep is None and what == "song" else round((keep or 0) * FRAME_RATE)
    if kept_frames > tokens.n_frames:
        raise ConfigError(f"{source}: --keep {keep:g} s, but the song is {tokens.seconds:.2f} s long; keep less")
    if kept_frames >= frames:
        raise ConfigError(
            f"{source}: {kept_frames / FRAME_RATE:g} s of it stay, which leaves nothing to make of {frames / FRAME_RATE:g} s; "
            "raise --seconds or lower --keep"
        )
    if what != "song" and tokens.n_frames < frames:
        raise ConfigError(
            f"{source}: --seconds {frames / FRAME_RATE:g}, but its {what} are {tokens.seconds:.2f} s long; lower --seconds"
        )
    lengths = {track: frames if track == what else kept_frames for track in TRACKS}
    return {track: tokens.track(track)[:n].numpy()[None] for track, n in lengths.items() if n}


def _dual(
    candidate: GeneratedTokens, codec: DuoTok, given: DualTokens | None, source: Path | None, what: str
) -> DualTokens:
    """Tokens for the renderer: with the gain of the given song, its exact length where all of it is kept, and the record that they were
    generated: no file of tokens that a song encodes to."""
    from duotok.editing import recorded
    from duotok.files import text_of
    from duotok.tokens import DualTokens
    from duotok.tracks import TRACKS

    fields: dict[str, Any] = {}
    if given is not None and source is not None:
        fields = {"gain_db": given.gain_db, "plan": given.plan, "source": text_of(source.name)}
        if candidate.tokens[TRACKS[0]].shape[1] == given.n_frames:
            fields["n_samples"] = given.n_samples
    made = DualTokens.from_codes(
        *(candidate.tokens[track][0].tolist() for track in TRACKS), codebook_sizes=codec.codebook_sizes,
        model_id=codec.model_id, model_hash=codec.model_hash, **fields,
    )  # fmt: skip
    name = made.source or "a song"
    done = {"vocals": f"accompaniment for the vocals of {name}", "accompaniment": f"vocals for the accompaniment of {name}",
            "song": f"{name} goes on"}.get(what, "from nothing")  # fmt: skip
    return recorded(made, f"generate: {done}, seed {candidate.seed}", [] if given is None else [given])


def _report(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        put_json(facts)
        return
    if "would make" in facts:
        given = f", the first {facts['given_seconds']:.1f} s given" if facts["given_seconds"] else ""
        say(
            f"would make {', '.join(facts['would make'])}: {facts['seconds']:.1f} s{given}, by {facts['lm']} and {facts['model']}"
        )
        return
    beside = f", tokens in {facts['tokens']}" if "output" in facts else ""
    elapsed = facts["tokens_took_seconds"] + facts.get("sound_took_seconds", 0.0)
    ended = ", ended by the model" if facts["ended"] else ""
    say(
        f"{facts.get('output', facts['tokens'])}: {facts['seconds']:.1f} s{ended}, seed {facts['seed']}{beside}; took {elapsed:.1f} s"
    )
