"""Writing the corpus: media files, the catalogue, and the truth that is kept back."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np

from mer_plugins.errors import PluginError
from mer_plugins.synthetic.acting import act_face, act_voice
from mer_plugins.synthetic.casting import Part, cast
from mer_plugins.synthetic.face import FPS, film
from mer_plugins.synthetic.film import mp4_bytes, wav_bytes, write
from mer_plugins.synthetic.sentences import write_line
from mer_plugins.synthetic.voice import RATE, speak

Progress = Callable[[int, int], None]

_VERSION = 1  # of the recipe; a folder made by another one is not mixed with this one
_README = """\
This corpus is synthetic: a formant synthesiser babbles templated sentences and a drawn face moves to them.
It was made by mer-fs to show and test the machinery. Scores on it say nothing about emotion recognition.

clips.csv   key, audio, video, text, speaker, split, emotion (given for the split train only)
truth.csv   the emotions of the unlabelled and test clips: for evaluation, never for training
A few clips are broken on purpose: cut-off videos, sound without samples, no audio stream, no words, no face.
"""


def write_corpus(
    folder: Path,
    *,
    seed: int = 0,
    train: int = 140,
    unlabeled: int = 190,
    test: int = 120,
    broken: int = 6,
    progress: Progress | None = None,
) -> Path:
    """Write a synthetic tri-modal corpus of real media: 16 kHz WAV, 128-pixel MP4 with sound, sentences.

    Six emotions (those of MER2024), speakers disjoint between the splits, label distributions that differ
    between `train` and the rest. Files that are there already from the same call are kept, so an interrupted
    call can be repeated. The same arguments give the same content.

    Args:
        folder: Where to; made if need be. Gets `clips.csv`, `truth.csv`, `README.txt`, `audio/`, `video/`.
        seed: Of everything random.
        train: How many labelled clips.
        unlabeled: How many clips in the pool without labels.
        test: How many test clips.
        broken: How many broken clips besides; they are dealt to `unlabeled` and `train`.
        progress: Called with (clips done, clips in all).

    Returns:
        The path of `clips.csv`.

    Raises:
        PluginError: OpenCV is not installed, a size is negative, or the folder holds another corpus.
    """
    sizes = {"train": train, "unlabeled": unlabeled, "test": test}
    _check(folder, {"version": _VERSION, "seed": seed, **sizes, "broken": broken})
    parts = cast(seed, sizes, broken)
    rows = []
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        jobs = [pool.submit(partial(_make, folder, seed, part)) for part in parts]
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            if progress:
                progress(done, len(parts))
        rows = [job.result() for job in jobs]
    finally:
        pool.shutdown(cancel_futures=True)
    truth = [[part.key, part.emotion] for part in parts if part.split != "train"]
    write(folder / "README.txt", _README.encode())
    write(folder / "truth.csv", _csv(["key", "emotion"], truth))
    catalogue = folder / "clips.csv"
    write(catalogue, _csv(["key", "audio", "video", "text", "speaker", "split", "emotion"], rows))
    return catalogue


def split_sizes(clips: int) -> dict[str, int]:
    """Divide a number of clips over the splits as `write_corpus` does by default: 140, 190 and 120 of 450."""
    train, test = round(clips * 140 / 450), round(clips * 120 / 450)
    return {"train": train, "unlabeled": clips - train - test, "test": test}


def _check(folder: Path, recipe: dict[str, int]) -> None:
    """Refuse what cannot be done before anything is written, and note in the folder what is being made."""
    from importlib.util import find_spec

    if find_spec("cv2") is None:
        raise PluginError("drawing faces needs OpenCV, which is not installed", "pip install 'mer-fs[video]'")
    if min(recipe.values()) < 0:
        raise PluginError("a corpus cannot have a negative number of clips", "give 0 or more")
    note = folder / "corpus.json"
    if note.exists() and json.loads(note.read_bytes()) != recipe:
        raise PluginError(f"{folder} holds a corpus made with other settings", "choose another folder")
    write(note, json.dumps(recipe).encode())


def _make(folder: Path, seed: int, part: Part) -> list[str]:
    """Write the files of one clip that are not there yet and return its row of the catalogue."""
    rng = np.random.default_rng([seed, 2, part.index])
    line = write_line(part.emotion, rng)
    audio, video = f"audio/{part.key}.wav", f"video/{part.key}.mp4"
    if not ((folder / audio).exists() and (folder / video).exists()):
        sound, opening = speak(line, act_voice(part.emotion, rng), part.speaker.throat, rng)
        seconds = len(sound) / RATE
        frames = film(
            part.speaker.look,
            act_face(part.emotion, rng),
            opening,
            seconds,
            rng,
            absent=part.flaw == "no face",
        )
        heard = None if part.flaw == "no audio stream" else sound
        picture = mp4_bytes(frames, FPS, heard)
        if part.flaw == "truncated video":
            picture = picture[: len(picture) * 2 // 5]
        write(folder / audio, wav_bytes(sound[:0] if part.flaw == "empty sound" else sound))
        write(folder / video, picture)
    if part.flaw == "no audio stream":
        audio = video
    said = "" if part.flaw == "empty transcript" else line
    label = part.emotion if part.split == "train" else ""
    return [part.key, audio, video, said, part.speaker.name, part.split, label]


def _csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    memory = io.StringIO(newline="")
    csv.writer(memory).writerows([columns, *rows])
    return memory.getvalue().encode()
