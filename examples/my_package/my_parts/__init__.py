"""Own parts of gmu_lightning, as a package: see docs/howto/share_your_parts.md."""
