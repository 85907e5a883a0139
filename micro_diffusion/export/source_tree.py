"""The source files that some modules need, as a package that works under any name and needs this one no more.

Copied are modules of this package and of two small libraries in plain Python, einops and annotated-types (both under
the MIT license), which an environment for diffusers may lack. Their imports of one another become relative.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

COPIED = ("micro_diffusion", "einops", "annotated_types")
"""Top-level packages whose files are copied; all others are imported as they are."""


def source_tree(modules: Iterable[str]) -> dict[str, str]:
    """The files of a package with these modules, and with all that they import of `COPIED`: path within it -> text.

    `micro_diffusion.backbone.dit` becomes `NAME.micro_diffusion.backbone.dit`. Packages that no import names keep no
    text in their `__init__.py`.

    Raises:
        ValueError: for an import that cannot be made relative.
    """
    files, queue = {"__init__.py": ""}, list(modules)
    seen: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        text = source_file(name).read_text(encoding="utf-8")
        queue += [found for found in _imported(text, name) if _is_copied(found)]
        files[_path_in_tree(name)] = _relative(text, name)
        files |= {f"{name.split('.')[0]}/{file}": text for file, text in _licenses(name.split(".")[0]).items()}
    for path in list(files):
        for parent in list(Path(path).parents)[:-1]:
            files.setdefault(f"{parent.as_posix()}/__init__.py", "")
    return dict(sorted(files.items()))


def libraries(files: Mapping[str, str]) -> set[str]:
    """Top-level packages that the files of this package in a tree import, at their tops or in functions."""
    own = [text for path, text in files.items() if path.startswith("micro_diffusion/") and path.endswith(".py")]
    nodes = [node for text in own for node in _nodes(ast.parse(text))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    plain |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain}


def tree_name(files: Mapping[str, str]) -> str:
    """A module name that follows from the contents of a tree."""
    digest = hashlib.blake2b(digest_size=6)
    for path, text in sorted(files.items()):
        digest.update(f"{path}\0{text}\0".encode())
    return f"micro_diffusion_{digest.hexdigest()}"


@cache
def source_file(name: str) -> Path:
    """The file of a module or package of `COPIED`.

    Raises:
        ModuleNotFoundError: when there is none.
    """
    root, *parts = name.split(".")
    spec = find_spec(root)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {root!r}; install it with pip", name=root)
    place = Path(spec.origin).parent.joinpath(*parts)
    found = [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]
    if not found:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return found[0]


def _is_copied(name: str) -> bool:
    return name.split(".")[0] in COPIED


def _is_module(name: str) -> bool:
    try:
        return bool(source_file(name))
    except ModuleNotFoundError:
        return False


def _path_in_tree(name: str) -> str:
    path = name.replace(".", "/")
    return f"{path}/__init__.py" if source_file(name).name == "__init__.py" else f"{path}.py"


def _package(name: str) -> list[str]:
    """The names from which a relative import of the module counts."""
    return name.split(".") if source_file(name).name == "__init__.py" else name.split(".")[:-1]


def _imported(text: str, name: str) -> Iterator[str]:
    """Full names of the modules that a text imports, at its top or in a function, for more than their types."""
    for node in _nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = _package(name)
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                within = f"{module}.{alias.name}"
                yield within if _is_copied(within) and _is_module(within) else module


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _nodes(node)


def _relative(text: str, name: str) -> str:
    """The text with imports of `COPIED` relative to the tree's root."""
    dots = "." * (len(_package(name)) + 1)
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import) and any(_is_copied(alias.name) for alias in node.names):
            raise ValueError(f"{source_file(name)}:{node.lineno} cannot be made relative; write `from … import …`")
        if isinstance(node, ast.ImportFrom) and not node.level and _is_copied(node.module or ""):
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace(f"from {node.module}", f"from {dots}{node.module}", 1)
    return "".join(lines)


@cache
def _licenses(package: str) -> dict[str, str]:
    """File name -> text of the license of an installed library of `COPIED`."""
    if package == "micro_diffusion":
        return {}
    listed = metadata.files(package.replace("_", "-")) or []
    return {file.name: file.read_text() for file in listed if file.name.upper().startswith("LICENSE")}
