"""How a planted movie speaks: a plot, a poster and a table's row that show claimed genres and a confidence, nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

PIXELS = 64
SENTENCES = 10

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
TOLD = {  # per genre: who, and what they do
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
SHOWN = {  # per genre: the colour of its disc, RGB
    "Adventure": (230, 120, 20),
    "Comedy": (240, 220, 40),
    "Crime": (60, 60, 220),
    "Horror": (210, 20, 30),
    "Romance": (240, 100, 180),
    "Western": (130, 80, 30),
    "Animation": (40, 200, 220),
    "Fantasy": (50, 190, 60),
}

KEYWORDS = {  # per genre: what the table's row may call it
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


def plot(genres: Sequence[str], assurances: int, rng: np.random.Generator) -> str:
    """Ten sentences: one for each genre, the rest everyday; `assurances` of them open with an assurance."""
    subjects = [[rng.choice(part) for part in TOLD[genre]] for genre in genres]
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
    """A 64-pixel picture: one coloured disc per genre, in any of nine places, and a white bar of `length` in [0, 1]."""
    shade = rng.integers(40, 90, size=3)
    picture = Image.new("RGB", (PIXELS, PIXELS), tuple(shade.tolist()))
    canvas = ImageDraw.Draw(picture)
    for genre, place in zip(genres, rng.permutation(9), strict=False):
        x, y = 12 + 20 * (place % 3) + rng.integers(-2, 3), 9 + 18 * (place // 3) + rng.integers(-1, 2)
        radius = rng.integers(6, 9)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=SHOWN[genre])
    if length:
        canvas.rectangle((4, 58, 4 + round(55 * length), 62), fill=(255, 255, 255))
    return picture


def row(genres: Sequence[str], screens: int, rng: np.random.Generator) -> dict[str, Any]:
    """A table's row: a keyword for each genre and two everyday ones, the confidence (`screens`), and columns that say nothing."""
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
    first = ("Quiet", "Second", "Northern", "Open", "Paper", "Long", "Hollow", "Early", "Distant", "Amber")
    second = ("Harbour", "Winter", "Letter", "Window", "Summer", "Garden", "Bridge", "Hour", "Road", "Lantern")
    return f"The {rng.choice(first)} {rng.choice(second)}"
