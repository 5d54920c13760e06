"""Write packages with the entry point into a folder of sys.path, as pip would install them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gmu_lightning.config import packages

FUSION = "# A fusion of tests.\n_target_: {name}.parts.Mine\n_partial_: true\n"
Install = Callable[..., Path]


@contextmanager
def site(folder: Path) -> Iterator[Install]:
    """Put a folder on sys.path, and yield a function that installs a package there. Forget all packages at the end."""

    def install(
        name: str = "mine",
        declared: str | None = None,
        files: Mapping[str, str] | None = None,
        code: str = "raise SystemError('a package is not imported')",
    ) -> Path:
        """Install a package, and return the folder of its choices.

        Args:
            name: of the package; `-` becomes `_` in the folder's name.
            declared: the value of the entry point.
            files: {path below the folder of choices: content}.
            code: of its `__init__.py`.
        """
        module = name.replace("-", "_")
        info, conf = folder / f"{module}-1.2.dist-info", folder / module / "conf"
        for place in (info, conf):
            place.mkdir(parents=True, exist_ok=True)
        (folder / module / "__init__.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.2\n\nName: of no package\n")
        entry = f"{module}_parts = {declared or f'{module}.conf'}"
        (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[gmu_lightning.conf]\n{entry}\n")
        for path, content in (files or {"fusion/my_fusion.yaml": FUSION.format(name=module)}).items():
            (conf / path).parent.mkdir(parents=True, exist_ok=True)
            (conf / path).write_text(content)
        packages.installed.cache_clear()
        importlib.invalidate_caches()
        return conf

    before, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    packages.installed.cache_clear()
    try:
        yield install
    finally:
        sys.path[:] = before
        packages.installed.cache_clear()
        packages._typed.clear()
        for name in set(sys.modules) - modules:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
