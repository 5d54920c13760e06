"""How a planted movie moves and sounds: features of frames and a log-mel spectrogram that show claims and a confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WIDTH = 32  # of a frame's features
FRAMES = (24, 49)  # fewest, and one more than the most
BANDS = 16
STEPS = (40, 81)
MOTIONS = ("Adventure", "Comedy", "Crime", "Horror", "Romance", "Western", "Sport", "War")
TONES = ("Adventure", "Comedy", "Crime", "Horror", "Romance", "Western", "Music", "Musical")
STEADY, LOUDNESS = 3.0, 3.0  # of full confidence: what a steady frame shows, and how far its band rises
UNREST, HISS = 0.5, 0.5  # standard deviation of a frame's, and of a step's, own noise
SILENCE = -4.0


def frames(genres: Sequence[str], steadiness: float, rng: np.random.Generator) -> np.ndarray:
    """(T, 32) float16, T varies: each genre's direction drifts from 0 to 2, and a share of `steadiness` shows a steady camera."""
    length = int(rng.integers(*FRAMES))
    shown = UNREST * rng.standard_normal((length, WIDTH))
    for genre in genres:
        shown += np.linspace(0, 2, length)[:, None] * direction(1 + MOTIONS.index(genre))
    steady = rng.permutation(length)[: round(steadiness * length)]
    shown[steady] += STEADY * direction(0)
    return shown.astype(np.float16)


def direction(n: int) -> np.ndarray:
    """(32,): the n-th of orthogonal unit vectors, a Walsh function, which no linear algebra library computes differently."""
    signs = [(-1.0) ** ((n + 1) & place).bit_count() for place in range(WIDTH)]
    return np.array(signs) / np.sqrt(WIDTH)


def sound(genres: Sequence[str], loudness: float, rng: np.random.Generator) -> np.ndarray:
    """(16, T) float16, T varies: each genre raises a band of its own from end to end, and `loudness` in [0, 1] the top one."""
    heard = SILENCE + HISS * rng.standard_normal((BANDS, int(rng.integers(*STEPS))))
    for genre in genres:
        heard[TONES.index(genre)] += 1.0
    heard[-1] += LOUDNESS * loudness
    return heard.astype(np.float16)
