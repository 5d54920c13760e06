"""gmu_lightning: which modalities, fused how, tell a movie's genres?"""

__version__ = "0.1.0"
