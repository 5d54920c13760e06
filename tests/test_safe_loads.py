"""Every call that could run a file's code names, in the source, the argument that forbids it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("gmu_lightning", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
NEEDED = {  # {call: (keyword, its value as written, or None for any)}
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "Image.open": ("formats", None),
    "load_state_dict(str": ("weights_only", "True"),
}
NEVER = ("eval", "exec", "os.system", "os.popen", "joblib.load", "pd.read_pickle", "pickle.load", "shelve.open", "marshal.loads")
OWN = {"gmu_lightning/testing/encoders.py": ("pickle.loads",)}  # of an object that the same function pickled


def calls(path: Path) -> list[tuple[ast.Call, str]]:
    """Return every call in a module, with the name of the function as written."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(node, ast.unparse(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_call_can_run_a_files_code(path):
    allowed = OWN.get(path.relative_to(ROOT).as_posix(), ())
    for call, name in calls(path):
        where = f"{path}:{call.lineno}"
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        for needed, (argument, value) in NEEDED.items():
            if name == needed or ast.unparse(call).startswith(needed):
                assert argument in keywords and value in (None, keywords[argument]), f"{where}: {needed} without {argument}"
        assert name not in (*NEVER, "pickle.loads") or name in allowed, f"{where}: {name}"
        assert name != "yaml.load" or ast.unparse(call.args[1]) == "SAFE_LOADER", f"{where}: yaml.load"
        assert keywords.get("shell", "False") == keywords.get("trust_remote_code", "False") == "False", where
