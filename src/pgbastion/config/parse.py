"""The file's text to plain values with their lines, and values to the model. Pure."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pgbastion.config.model import File
from pgbastion.config.problems import Problem
from pgbastion.config.section import Section

FILE_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The values of a file and the line of each key."""

    values: dict[str, Any]
    lines: Mapping[str, int]

    def line_of(self, key: str) -> int | None:
        """Return the line of ``key``, or of the nearest key above it that is there."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key.rpartition(".")[0]
        return None


def parse_document(text: str) -> Document | Problem:
    """Return the values that the YAML ``text`` holds, or why it cannot be read."""
    if len(text) > FILE_BYTES_MAX:
        return Problem(
            key="",
            problem=f"the file is larger than {FILE_BYTES_MAX} bytes",
            remedy="name the configuration file, not another one",
        )
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return Problem(
            key="",
            problem=f"{where}{exc.problem or exc.context or 'this is not YAML'}",
            remedy="correct the line; keys end with a colon and a space",
        )
    except (YAMLError, ValueError, RecursionError) as exc:
        return Problem(key="", problem=f"this is not YAML: {exc}", remedy="correct it")
    if not isinstance(tree, CommentedMap):
        return Problem(
            key="",
            problem="the file holds no table of sections",
            remedy="begin with node:, raft: and their keys; see the example file",
        )
    lines: dict[str, int] = {}
    values = _plain(tree, "", lines)
    return Document(values=values, lines=lines)


def parse_file(values: Mapping[str, Any]) -> File | list[Problem]:
    """Return the typed file, or every problem of its keys, types and values."""
    try:
        return File.model_validate(values)
    except ValidationError as exc:
        return [_as_problem(error) for error in exc.errors()]


def _plain(node: Any, path: str, lines: dict[str, int]) -> Any:
    """Return ``node`` as dicts, lists and plain scalars; note each key's line."""
    if isinstance(node, CommentedMap):
        plain = {}
        for key, value in node.items():
            name = f"{path}.{key}" if path else f"{key}"
            lines[name] = node.lc.key(key)[0] + 1
            plain[key if isinstance(key, str) else str(key)] = _plain(
                value, name, lines
            )
        return plain
    if isinstance(node, CommentedSeq):
        return [_plain(item, path, lines) for item in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _as_problem(error: ErrorDetails) -> Problem:
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    match error["type"]:
        case "extra_forbidden":
            return Problem(
                key=key, problem="unknown key", remedy=_nearest_key(error["loc"])
            )
        case "missing":
            return Problem(key=key, problem="is missing", remedy=_missing_remedy(key))
        case "model_type" | "model_attributes_type":
            return Problem(
                key=key,
                problem="has to be a section with keys",
                remedy=f"write {path[-1]}: with its keys indented below, or remove it",
            )
        case "bool_type":
            return Problem(
                key=key,
                problem=f"{_shown(error['input'])} is neither true nor false",
                remedy=_value_remedy(error["loc"], "write true or false"),
            )
        case "value_error":
            return Problem(
                key=key,
                problem=error["msg"].removeprefix("Value error, "),
                remedy=_value_remedy(error["loc"]),
            )
        case _:
            return Problem(
                key=key,
                problem=f"{_shown(error['input'])}: {_lowered(error['msg'])}",
                remedy=_value_remedy(error["loc"]),
            )


def _missing_remedy(key: str) -> str:
    if key == "postgresql.bin_dir":
        return (
            "no PostgreSQL 14 to 19 was found on this machine: install it, or give "
            "postgresql.bin_dir"
        )
    return f"add {key}: {_description(key.split('.'))}"


def _value_remedy(
    location: Sequence[int | str], remedy: str = "correct the value"
) -> str:
    description = _description([part for part in location if isinstance(part, str)])
    return f"{remedy}. {description}".strip()


def _nearest_key(location: Sequence[int | str]) -> str:
    *parents, wrong = [str(part) for part in location]
    known = _fields(parents)
    near = difflib.get_close_matches(wrong, known, n=1)
    if near:
        return f"did you mean {near[0]}? Otherwise remove it"
    where = ".".join(parents) or "the file"
    return f"remove it; {where} knows: {', '.join(known)}"


def _fields(path: Sequence[str]) -> list[str]:
    model = section_at(path)
    return sorted(model.model_fields) if model else []


def _description(path: Sequence[str]) -> str:
    model = section_at(path[:-1])
    if model is None or not path or path[-1] not in model.model_fields:
        return ""
    field = model.model_fields[path[-1]]
    text = field.description or ""
    section = section_at(path)
    return text or ((section.__doc__ or "") if section else "")


def section_at(path: Sequence[str]) -> type[Section] | None:
    """Return the model of the section at ``path``; None when it is none."""
    model: type[Section] = File
    for part in path:
        field = model.model_fields.get(part)
        if field is None:
            return None
        kinds = getattr(field.annotation, "__args__", (field.annotation,))
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, Section)]
        if not sections:
            return None
        model = sections[0]
    return model


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
