"""Raw data -> columns, once; no weights are loaded but of networks that look at trailers as they are decoded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmu_lightning.data.store import Store
from gmu_lightning.experiment import build
from gmu_lightning.experiment.allocator import keep_pages
from gmu_lightning.experiment.settle import modalities_of
from gmu_lightning.experiment.train import audit_left, quiet_libraries, say_audit
from gmu_lightning.files import write_json
from gmu_lightning.report.figures import genre_distribution, save


def prepare(config: Mapping[str, Any], folder: Path) -> None:
    """Prepare every chosen modality; leaves audit.json and the genre distribution, as PNG and SVG, in `folder`."""
    keep_pages()
    quiet_libraries()
    store = Store.of(config["store"])
    present = {}
    with audit_left(folder):
        data = build.build_data(config, store)
        for modality in modalities_of(config["modalities"]):
            encoder = build.make(config["encoder"][modality])
            column = build.prepare_column(data, modality, encoder, store)
            present[modality] = column.present
            where = store.root / "columns" / column.key
            print(f"{modality}: {int(column.present.sum())} of {len(data.movies)} movies, in {where}")
        data.leave_out_unusable()
    data.warn_of_losses(present)
    for sentence in data.warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    report = data.audit_report()
    write_json(folder / "audit.json", report)
    save(genre_distribution(report["genres"]), folder / "genres")
    say_audit(data)
    sizes = ", ".join(f"{n} {split}" for split, n in report["movies"].items())
    print(f"{data.layout}: {sizes} movies, {len(data.vocabulary)} genres; see {folder}")
    data.raise_if_strict()
