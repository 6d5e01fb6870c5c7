"""Signatures as the source has them: ``Batch``, ``Float[Tensor, 'B']``, not what they stand for."""

import ast
import copy
import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx import addnodes
from sphinx.application import Sphinx


Written = tuple[str, str | None]


def signature(what: str, obj: Any) -> Written | None:
    """Parameters and result of ``obj``, None where its source does not say."""
    if what == "class" and issubclass(obj, BaseModel):
        return "", None  # fields are listed one by one below, with what they mean
    if getattr(obj, "_is_protocol", False):
        return "", None  # nobody makes one
    node = definition(obj)
    if isinstance(node, ast.ClassDef) and dataclasses.is_dataclass(obj):
        return parameters(fields(node, obj)), None
    if isinstance(node, ast.ClassDef):
        made = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
        return (parameters(bound(made)), None) if isinstance(made, ast.FunctionDef) else None
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = bound(node) if what == "method" else ast.unparse(node.args)
        return parameters(arguments), shape(ast.unparse(node.returns)) if node.returns else None
    return None


def definition(obj: Any) -> ast.stmt | None:
    """Where ``obj`` is defined, as a tree."""
    obj = inspect.unwrap(obj)
    try:
        file = inspect.getsourcefile(obj)
    except TypeError:  # made in C
        return None
    there = file is not None and Path(file).is_file()
    return definitions(str(file)).get(obj.__qualname__) if there else None


@cache
def definitions(file: str) -> dict[str, ast.stmt]:
    """Every class and function of ``file`` by its qualified name."""

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt]]:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from inside(node.body, f"{prefix}{node.name}.")

    return dict(inside(ast.parse(Path(file).read_text(encoding="utf-8")).body, ""))


def fields(node: ast.ClassDef, obj: Any) -> str:
    """The fields that a dataclass is made from, as parameters."""
    taken = {field.name for field in dataclasses.fields(obj) if field.init}
    return ", ".join(
        f"{ast.unparse(n.target)}: {ast.unparse(n.annotation)}"
        + (f" = {ast.unparse(n.value)}" if n.value else "")
        for n in node.body
        if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) in taken
    )


def bound(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Parameters of a method without the first, which is bound."""
    arguments = copy.copy(node.args)
    if arguments.args and "staticmethod" not in map(ast.unparse, node.decorator_list):
        arguments.args = arguments.args[1:]
    return ast.unparse(arguments)


def parameters(text: str) -> str:
    """In brackets."""
    return f"({shape(text)})"


def shape(text: str) -> str:
    """Shapes without the leading blank, which is there for linters."""
    return text.replace("' ", "'")


def write_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, *given: str | None
) -> Written | None:
    """For Sphinx: the signature as it is written, or the one that it has ``given``."""
    return signature(what, obj) if what in ("class", "exception", "function", "method") else None


def skip_default(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """For Sphinx: a function that is a field's default is no method of the dataclass."""
    inside = inspect.isfunction(obj) and what == "class" and "." not in obj.__qualname__
    return True if inside else None


def leave_out_long_values(app: Sphinx, domain: str, kind: str, content: nodes.Element) -> None:
    """For Sphinx: a constant whose value does not fit a line is told by its docstring alone."""
    described = content.parent
    assert described is not None
    for value in list(described.findall(addnodes.desc_annotation)):
        if value.astext().lstrip().startswith("=") and len(value.astext()) > 80:
            value.parent.remove(value)


def setup(app: Sphinx) -> dict[str, Any]:
    """Signatures are written when Sphinx asks for them."""
    app.connect("autodoc-process-signature", write_signature)
    app.connect("autodoc-skip-member", skip_default)
    app.connect("object-description-transform", leave_out_long_values)
    return {"parallel_read_safe": True}
