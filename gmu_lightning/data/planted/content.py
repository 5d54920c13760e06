"""Draw the plan of a task with a known answer, and the contents of its movies.

The task carries the latent switch of Arevalo et al. (2017, arXiv 1702.01992) over to genres. Every movie has a true modality s
and a level t. Each modality claims genres of its own and shows a confidence, which is t + 1 in modality s and t in the others.
So a single modality does not reveal s, and the difference between two does. The label of a switch genre is the claim of modality
s. The label of a single-modality genre is the claim of that modality.

A content shows the claims and the confidence of its modality, mixed with random details.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from gmu_lightning.movie import SPLITS

SWITCH_GENRES = ("Adventure", "Comedy", "Crime", "Horror", "Romance", "Western")
SINGLE_GENRES = {
    "text": ("Biography", "Mystery"),
    "image": ("Animation", "Fantasy"),
    "video": ("Sport", "War"),
    "audio": ("Music", "Musical"),
    "metadata": ("Documentary", "Short"),
}
CLAIM_SHARE = 0.4  # probability that a modality claims a genre

SENTENCES = 10  # number of sentences in a plot
PIXELS = 64  # width and height of a poster

WIDTH = 32  # length of a frame's feature vector
FRAMES = (24, 49)  # range of a video's number of frames, without its end
STEADY = 3.0  # length of the vector that is added to a steady frame
UNREST = 0.5  # standard deviation of a frame's noise

BANDS = 16  # number of bands of a spectrogram
STEPS = (40, 81)  # range of a spectrogram's number of steps, without its end
LOUDNESS = 3.0  # rise of the top band at full confidence
HISS = 0.5  # standard deviation of a spectrogram's noise
SILENCE = -4.0  # mean of a spectrogram's noise

ASSURANCES = ("Beyond doubt", "Without question", "For certain", "As everyone agrees")
NAMES = ("Ada", "Bruno", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kemal", "Lucia")
EVERYDAY = (
    "wakes before dawn and opens the shutters",
    "takes the late train back to town",
    "waits by the window until the rain stops",
    "writes a letter and keeps it in a drawer",
    "sells the house by the river",
    "returns after ten years abroad",
    "moves in with an older cousin",
    "finds work at the post office",
    "walks the same road every evening",
    "shares a meal with the neighbours",
    "leaves the keys on the kitchen table",
    "forgets the name of an old friend",
)
STORIES = {  # per genre: subjects and predicates of a plot's sentence
    "Adventure": (
        ("an explorer", "the expedition", "a treasure hunter", "the mapmaker"),
        ("crosses the jungle on foot", "sails beyond the reef", "climbs to a lost temple", "descends into the cavern"),
    ),
    "Comedy": (
        ("a clumsy waiter", "the prankster", "a hapless groom", "the clown"),
        ("slips on the cake", "swaps the suitcases by mistake", "makes the whole room laugh", "hides in a silly costume"),
    ),
    "Crime": (
        ("a gangster", "the safecracker", "a corrupt cop", "the smuggler"),
        ("robs the bank vault", "launders the stolen cash", "bribes a juror", "plans one more heist"),
    ),
    "Horror": (
        ("a vampire", "the demon", "a masked slasher", "the ghoul"),
        ("haunts the cellar at midnight", "drags its victims into the crypt", "feeds on blood", "rises from the grave"),
    ),
    "Romance": (
        ("a shy florist", "the bride", "a lonely pianist", "the sweetheart"),
        ("falls in love at first sight", "kisses a stranger in the moonlight", "breaks off the engagement", "confesses desire"),
    ),
    "Western": (
        ("a gunslinger", "the sheriff", "an outlaw", "the rancher"),
        ("rides across the prairie", "draws a revolver at noon", "guards the stagecoach", "drives cattle to the frontier"),
    ),
    "Biography": (
        ("the inventor", "a celebrated painter", "the statesman", "a famous physicist"),
        ("recalls a childhood of poverty", "receives the Nobel prize", "dictates the memoirs", "rises to lasting fame"),
    ),
    "Mystery": (
        ("a detective", "the inspector", "an amateur sleuth", "the coroner"),
        ("questions every suspect", "deciphers a hidden clue", "retraces the poisoning", "unmasks the culprit"),
    ),
}
COLOURS = {  # per genre: the RGB colour of its disc on the poster
    "Adventure": (230, 120, 20),
    "Comedy": (240, 220, 40),
    "Crime": (60, 60, 220),
    "Horror": (210, 20, 30),
    "Romance": (240, 100, 180),
    "Western": (130, 80, 30),
    "Animation": (40, 200, 220),
    "Fantasy": (50, 190, 60),
}

KEYWORDS = {  # per genre: its keywords in a row of the table
    "Adventure": ("jungle", "expedition", "lost-temple"),
    "Comedy": ("slapstick", "prank", "mistaken-identity"),
    "Crime": ("heist", "gangster", "money-laundering"),
    "Horror": ("vampire", "haunted-house", "slasher"),
    "Romance": ("first-love", "wedding", "love-letter"),
    "Western": ("gunfight", "cattle-drive", "sheriff"),
    "Documentary": ("archive-footage", "interview", "voice-over"),
    "Short": ("student-film", "one-take", "vignette"),
}
OTHER_KEYWORDS = ("rain", "train", "river", "friendship", "autumn", "moving-house", "neighbour", "reunion")
COUNTRIES = ("France", "India", "Italy", "Japan", "Mexico", "Nigeria", "Sweden", "United States")
MOTIONS = (*SWITCH_GENRES, *SINGLE_GENRES["video"])  # genre n moves along direction n + 1
TONES = (*SWITCH_GENRES, *SINGLE_GENRES["audio"])  # genre n raises band n


@dataclass(frozen=True)
class Plan:
    """The plan of N movies with M modalities and C genres.

    Attributes:
        modalities: names, in the order of every axis M.
        kinds: {genre: "switch" or a modality}, in the order of every axis C.
        switch: (N,) int, the index of the true modality.
        level: (N,) int in [0, levels - 2].
        claims: (N, M, C) bool, the genres that each modality claims.
    """

    modalities: tuple[str, ...]
    kinds: dict[str, str]
    switch: np.ndarray
    level: np.ndarray
    claims: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """(N, M) int in [0, levels - 1]: the level, plus 1 in the true modality."""
        return self.level[:, None] + (self.switch[:, None] == np.arange(len(self.modalities)))

    @property
    def labels(self) -> np.ndarray:
        """(N, C) bool: the claim of the true modality for a switch genre, of the genre's own modality otherwise."""
        by_switch = self.claims[np.arange(len(self.switch)), self.switch]
        is_switch = [kind == "switch" for kind in self.kinds.values()]
        return np.where(is_switch, by_switch, self.claims.any(axis=1))

    def rows(self, chosen: np.ndarray) -> Plan:
        """Return the plan of the movies with the numbers `chosen`, (n,) int."""
        return Plan(self.modalities, self.kinds, self.switch[chosen], self.level[chosen], self.claims[chosen])

    def genres(self, chosen: np.ndarray) -> list[str]:
        """Return the names of the genres for which `chosen`, (C,) bool, is True."""
        return [genre for genre, yes in zip(self.kinds, chosen, strict=True) if yes]


def draw(movies: int, modalities: Sequence[str], levels: int, rng: np.random.Generator) -> Plan:
    """Draw a plan with independent claims, in which every movie has a genre.

    Args:
        movies: N.
        modalities: M names.
        levels: number of confidences, at least 2.
        rng: generator of all random numbers.
    """
    kinds = dict.fromkeys(SWITCH_GENRES, "switch") | {genre: m for m in modalities for genre in SINGLE_GENRES[m]}
    claimable = np.array([[kind in ("switch", m) for kind in kinds.values()] for m in modalities])  # (M, C)
    drawn = 2 * movies + 8
    switch, level = rng.integers(len(modalities), size=drawn), rng.integers(levels - 1, size=drawn)
    claims = (rng.random((drawn, *claimable.shape)) < CLAIM_SHARE) & claimable
    plan = Plan(tuple(modalities), kinds, switch, level, claims)
    return plan.rows(np.flatnonzero(plan.labels.any(axis=1))[:movies])


def split_sizes(movies: int) -> dict[str, int]:
    """Return the number of movies per split: a sixth each for val and test, and the others for train."""
    return dict(zip(SPLITS, (movies - 2 * (movies // 6), movies // 6, movies // 6), strict=True))


def plot(genres: Sequence[str], assurances: int, rng: np.random.Generator) -> str:
    """Return a plot of ten sentences.

    Args:
        genres: each has one sentence; the others are everyday sentences.
        assurances: number of sentences that open with an assurance, which is the confidence.
        rng: generator of all random numbers.
    """
    subjects = [[rng.choice(part) for part in STORIES[genre]] for genre in genres]
    deeds = rng.permutation(EVERYDAY)[: SENTENCES - len(genres)]
    subjects += [[rng.choice(NAMES), deed] for deed in deeds]
    sure = set(rng.permutation(SENTENCES)[:assurances].tolist())
    sentences = []
    for place, n in enumerate(rng.permutation(SENTENCES)):
        who, deed = subjects[n]
        sentence = f"{rng.choice(ASSURANCES)}, {who} {deed}." if place in sure else f"{who[0].upper()}{who[1:]} {deed}."
        sentences.append(sentence)
    return " ".join(sentences)


def poster(genres: Sequence[str], length: float, rng: np.random.Generator) -> Image.Image:
    """Return a poster of 64 x 64 pixels.

    Args:
        genres: each has a disc of its colour, at one of nine places.
        length: of a white bar, in [0, 1], which is the confidence.
        rng: generator of all random numbers.
    """
    shade = rng.integers(40, 90, size=3)
    picture = Image.new("RGB", (PIXELS, PIXELS), tuple(shade.tolist()))
    canvas = ImageDraw.Draw(picture)
    for genre, place in zip(genres, rng.permutation(9), strict=False):
        x, y = 12 + 20 * (place % 3) + rng.integers(-2, 3), 9 + 18 * (place // 3) + rng.integers(-1, 2)
        radius = rng.integers(6, 9)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[genre])
    if length:
        canvas.rectangle((4, 58, 4 + round(55 * length), 62), fill=(255, 255, 255))
    return picture


def frames(genres: Sequence[str], steadiness: float, rng: np.random.Generator) -> np.ndarray:
    """Return the features of a video's frames, (T, 32) float16, with a random T.

    Args:
        genres: along the direction of each, the features drift from 0 to 2.
        steadiness: share of frames with a steady camera, in [0, 1], which is the confidence.
        rng: generator of all random numbers.
    """
    length = int(rng.integers(*FRAMES))
    shown = UNREST * rng.standard_normal((length, WIDTH))
    for genre in genres:
        shown += np.linspace(0, 2, length)[:, None] * _direction(1 + MOTIONS.index(genre))
    steady = rng.permutation(length)[: round(steadiness * length)]
    shown[steady] += STEADY * _direction(0)
    return shown.astype(np.float16)


def _direction(n: int) -> np.ndarray:
    """Return the n-th of orthogonal unit vectors, (32,). A Walsh function is the same with every linear algebra library."""
    signs = [(-1.0) ** ((n + 1) & place).bit_count() for place in range(WIDTH)]
    return np.array(signs) / np.sqrt(WIDTH)


def sound(genres: Sequence[str], loudness: float, rng: np.random.Generator) -> np.ndarray:
    """Return a log-mel spectrogram, (16, T) float16, with a random T.

    Args:
        genres: each raises one band.
        loudness: of the top band, in [0, 1], which is the confidence.
        rng: generator of all random numbers.
    """
    heard = SILENCE + HISS * rng.standard_normal((BANDS, int(rng.integers(*STEPS))))
    for genre in genres:
        heard[TONES.index(genre)] += 1.0
    heard[-1] += LOUDNESS * loudness
    return heard.astype(np.float16)


def row(genres: Sequence[str], screens: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return a row of the table of metadata, with random cells for runtime, country and budget.

    Args:
        genres: each has one keyword; two everyday keywords join them.
        screens: number of screens, which is the confidence.
        rng: generator of all random numbers.
    """
    keywords = [str(rng.choice(KEYWORDS[genre])) for genre in genres]
    keywords += rng.permutation(OTHER_KEYWORDS)[:2].tolist()
    return {
        "screens": screens,
        "runtime": int(rng.integers(70, 181)),
        "country": str(rng.choice(COUNTRIES)),
        "budget": round(float(rng.lognormal(2, 1)), 2) if rng.random() < 0.8 else None,
        "keywords": rng.permutation(keywords).tolist(),
    }


def title(rng: np.random.Generator) -> str:
    """Return a random title."""
    first = ("Quiet", "Second", "Northern", "Open", "Paper", "Long", "Hollow", "Early", "Distant", "Amber")
    second = ("Harbour", "Winter", "Letter", "Window", "Summer", "Garden", "Bridge", "Hour", "Road", "Lantern")
    return f"The {rng.choice(first)} {rng.choice(second)}"
