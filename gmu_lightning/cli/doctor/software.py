"""Check versions of Python and packages, known bad releases, and packages that add choices."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gmu_lightning.cli.doctor.check import OK, WARNING, WRONG, Check, State
from gmu_lightning.config import packages
from gmu_lightning.config.classes import class_of
from gmu_lightning.config.groups import files_of_choices, package_problems, read_yaml
from gmu_lightning.movie import UserError

NAME = "gmu-lightning"
SHOWN = ("torch", "pytorch-lightning", "transformers", "timm", "hydra-core", "wandb")  # their versions stand in a bug report


class BadRelease(NamedTuple):
    """Releases of a package that should not be used.

    Attributes:
        package: its name on the index.
        versions: specifiers as pip reads them.
        state: of a machine that has one of them.
        reason: a clause.
    """

    package: str
    versions: str
    state: State
    reason: str


BAD = (
    *(
        BadRelease(package, f"=={version}", WRONG, "it is malware, which reads passwords (GHSA-w37p-236h-pfx3)")
        for package in ("pytorch-lightning", "lightning")
        for version in ("2.6.2", "2.6.3")
    ),
    BadRelease("wandb", ">=0.25.1,<0.28.1", WRONG, "forked processes wait for ever (wandb issue 12079)"),
    BadRelease("torch", "<2.10", WRONG, "a checkpoint of a stranger can run code even with weights_only (CVE-2026-24747)"),
    BadRelease("pillow", ">=10.3,<12.1.1", WARNING, "a crafted picture can write outside its memory (CVE-2026-25990)"),
    BadRelease("filelock", "<3.20.3", WARNING, "a link in place of a lock file lets others empty your files (CVE-2025-68146)"),
)


def python() -> Check:
    """Check Python's version against that of this package's metadata."""
    version = platform.python_version()
    try:
        wanted = metadata.metadata(NAME)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        remedy = "install it in its checkout: pip install --editable ."
        return Check(
            "python", WARNING, f"{version}; gmu_lightning is not installed, so the ranges of versions are unknown", remedy
        )
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return Check(
            "python", WRONG, f"{version}, and gmu_lightning needs {wanted}", "create the environment with a newer Python"
        )
    return Check("python", OK, f"{version} ({platform.platform()})")


def versions() -> Iterator[Check]:
    """Check every required package, and the installed packages of extras, against the ranges in this package's metadata."""
    try:
        wanted = [Requirement(line) for line in metadata.requires(NAME) or ()]
    except metadata.PackageNotFoundError:  # `python` reports it
        return
    problems = [problem for one in wanted if (problem := _out_of_range(one)) is not None]
    yield from problems
    required = [one for one in wanted if one.marker is None]
    shown = ", ".join(f"{name} {version}" for name in SHOWN if (version := version_of(name)))
    if not problems:
        yield Check("packages", OK, f"{len(required)} required packages are in their ranges: {shown}")


def _out_of_range(wanted: Requirement) -> Check | None:
    version = version_of(wanted.name)
    pinned = f"pip install '{wanted.name}{wanted.specifier}'"
    if version is None:
        return Check("packages", WRONG, f"{wanted.name} is not installed", pinned) if wanted.marker is None else None
    if wanted.specifier.contains(version, prereleases=True):
        return None
    state = WRONG if wanted.marker is None else WARNING  # a package of an extra is optional
    return Check("packages", state, f"{wanted.name} {version} is not in the range {wanted.specifier}", pinned)


def bad_releases() -> Iterator[Check]:
    """Check the installed packages against the list of known bad releases."""
    found = [bad for bad in BAD if (version := version_of(bad.package)) and version in SpecifierSet(bad.versions)]
    for bad in found:
        remedy = f"pip install --upgrade {bad.package}"
        if "malware" in bad.reason:
            remedy += ", and replace every password and key that this machine knew"
        yield Check("releases", bad.state, f"{bad.package} {version_of(bad.package)}: {bad.reason}", remedy)
    if not found:
        names = ", ".join(dict.fromkeys(bad.package for bad in BAD))
        yield Check("releases", OK, f"no known bad release of {names}")


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def further_choices() -> Iterator[Check]:
    """Check each package that adds choices: its folder, its YAML files, and whether their classes can be imported."""
    problems = list(package_problems())
    for problem in problems:
        yield Check("choices", WRONG, problem, "every other command ends with this sentence until then")
    for package in packages.installed():
        if package.folder is None:
            continue
        files, broken = files_of_choices(package.folder), []
        for path in files:
            try:
                target = read_yaml(path).get("_target_")
                if isinstance(target, str):
                    class_of(target)
            except UserError as error:
                broken.append(str(error))
        for problem in broken:
            yield Check("choices", WRONG, f"package {package.name}: {problem}", f"pip install --upgrade {package.name}")
        if files and not broken:
            yield Check("choices", OK, f"{len(files)} from the package {package.name} {package.version}")
