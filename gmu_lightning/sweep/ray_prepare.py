"""prepare hydra/launcher=ray: trailers and posters are decoded on all machines of a cluster, into files of the store."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gmu_lightning.config.schema import EncoderConfig, RunConfig
from gmu_lightning.parallel import track
from gmu_lightning.sweep.ray_cluster import Cluster
from gmu_lightning.sweep.ray_launcher import Ray
from gmu_lightning.sweep.workers import Task, share_out

logger = logging.getLogger(__name__)
MOST = {True: 16, False: 256}  # {costly: contents of a task}; a task starts decoders or loads a network
SHARES = 4  # tasks of each worker, at least


class Files(NamedTuple):
    """Files of one modality that have to be prepared.

    Attributes:
        encoder: of the modality.
        modality: of the files.
        pairs: each file and its SHA-256.
        costly: whether a file takes seconds; its row then stays in the store.
        folder: receives the rows.
    """

    encoder: EncoderConfig
    modality: str
    pairs: Sequence[tuple[Path, str]]
    costly: bool
    folder: Path

    def tasks(self, store: str, threads: int, workers: int) -> Iterator[Task]:
        """Yield the work in pieces that suit a number of workers."""
        size = max(1, min(MOST[self.costly], math.ceil(len(self.pairs) / (SHARES * workers))))
        for start in range(0, len(self.pairs), size):
            yield Task(prepare_files, (self.encoder, self.modality, store, threads, self.pairs[start : start + size]))


@contextmanager
def prepared_on_cluster(config: RunConfig, launcher: Mapping[str, Any]) -> Iterator[None]:
    """Prepare the files of the configuration on a cluster, and yield. Columns are then assembled from the rows in the store.

    A file that no worker could prepare is left to this machine. At the end of the context, rows that cost little are removed:
    the columns hold them.

    Args:
        config: names the data, the encoders and the store.
        launcher: arguments of `Ray`.

    Raises:
        UserError: the data cannot be read, or the cluster does not suit.
    """
    ray = Ray(**{key: value for key, value in launcher.items() if key != "_target_"})
    work = _work(config)
    try:
        if work:
            _share(ray, config, work)
        yield
    finally:
        for files in work:
            if not files.costly:
                shutil.rmtree(files.folder, ignore_errors=True)


def _work(config: RunConfig) -> list[Files]:
    from gmu_lightning.data.parts import Parts
    from gmu_lightning.data.store import Store, column_key
    from gmu_lightning.experiment.build import load_table

    store = Store.of(config.store)
    table = load_table(config, store)
    found = []
    for modality in config.modalities:
        encoder = config.encoder[modality].make()
        preparation = encoder.preparation
        contents, digests = table.contents(modality), table.digests[modality]
        pairs = [(one, sha) for one, sha in zip(contents, digests, strict=True) if isinstance(one, Path) and sha is not None]
        if preparation.learns or not pairs or store.has("columns", column_key(modality, digests, table.in_train, preparation)):
            continue
        encoder.check()
        parts = Parts.begun(store.root, modality, preparation)
        left = list({sha: (one, sha) for one, sha in pairs if not parts.path(sha).exists()}.values())
        found.append(Files(config.encoder[modality], modality, left, getattr(preparation, "costly", False), parts.folder))
    return found


def _share(ray: Ray, config: RunConfig, work: Sequence[Files]) -> None:
    cluster = Cluster.joined(ray.address)
    root = config.data.root
    cluster.check([str(Path.cwd()), config.store.dir], [root] if root else [])
    each = ray.cpus or 1
    count = cluster.room(each, ray.gpus or 0, ray.workers)
    tasks = [task for files in work for task in files.tasks(config.store.dir, each, count)]
    total = sum(len(files.pairs) for files in work)
    undone = 0
    with (
        ray.hired(cluster, each, ray.gpus or 0, max(1, len(tasks))) as workers,
        track(_sentence(total, len(workers)), total) as advance,
    ):

        def note(task: Task, result: int | None) -> None:
            nonlocal undone
            advance(len(task.arguments[-1]))
            undone += 0 if result else len(task.arguments[-1])

        left = share_out(workers, tasks, note)
    undone += sum(len(task.arguments[-1]) for task in left)
    if undone:
        logger.warning("ray: %d files could not be prepared on the cluster: this machine prepares them", undone)


def _sentence(files: int, workers: int) -> str:
    return f"preparing {files} files in {'1 worker' if workers == 1 else f'{workers} workers'}"


def prepare_files(
    encoder: EncoderConfig, modality: str, store: str, threads: int, pairs: Sequence[tuple[Path, str]], cache: Any
) -> int:
    """Prepare files in this process and keep their rows in the store. Return their number.

    Args:
        encoder: of the modality.
        modality: of the files.
        store: folder of the store.
        threads: number of files that are prepared at once.
        pairs: each file and its SHA-256.
        cache: of the process, not used.
    """
    from gmu_lightning.data.store import Store, keep_parts
    from gmu_lightning.encoders.weights import remember_in
    from gmu_lightning.experiment.environment import prepare_process

    prepare_process()
    kept = Store(store, workers=threads)
    remember_in(kept.root / "weights")
    return keep_parts(kept, encoder.make().preparation, [one for one, _ in pairs], [sha for _, sha in pairs], modality)
