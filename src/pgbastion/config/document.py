"""Documents that are generated from the model: the example file and the reference."""

import json
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, NamedTuple, get_args

from pydantic.fields import FieldInfo

from pgbastion.config.model import DERIVED, File
from pgbastion.config.parse import section_at
from pgbastion.config.section import Section
from pgbastion.config.timings import PROFILES, smallest_lease_ms
from pgbastion.config.types import Form
from pgbastion.config.units import render_duration, render_size

WIDTH: Final = 88
HEADER: Final = """\
# Configuration of one pgbastion node. Copy it to /etc/pgbastion/pgbastion.yaml, give
# every node its own name, address and paths, and look at it with: pgbastion check
# Keys behind a "#" show their defaults, or an example where they have none. Durations
# and sizes carry units: 250ms, 5s, 1m30s; 512kB, 1MiB. Generated from the program.
"""
# What the example says in words; all other keys stand there with their defaults.
SPOKEN: Final = {
    "node.name": "n1",
    "node.address": "10.0.1.1",
    "cluster.peers": ["10.0.1.1", "10.0.1.2", "10.0.1.3"],
    "raft.data_dir": "/var/lib/pgbastion/raft",
    "raft.bootstrap": True,
    "postgresql.data_dir": "/var/lib/pgbastion/pgdata",
}


class Key(NamedTuple):
    """One key of the file."""

    path: str
    field: FieldInfo

    @property
    def name(self) -> str:
        """The key's own name."""
        return self.path.rpartition(".")[2]


def render_example() -> str:
    """Return the example file: every key, valid as it stands."""
    parts = [HEADER]
    for name in File.model_fields:
        section = section_at([name])
        if section is None:
            continue
        parts.append("\n" + _comment(_section_text(section), ""))
        parts.append(f"{name}:\n")
        for key, field in section.model_fields.items():
            parts += _example_of(Key(f"{name}.{key}", field))
    return "".join(parts)


def render_reference() -> str:
    """Return the reference of all keys and of the profiles, in Markdown."""
    lines = [
        "# Configuration",
        "",
        "Generated from the program. Durations (`250ms`, `5s`, `1m30s`) and",
        "sizes (`512kB`, `1MiB`; powers of 1024) always carry a unit. Unknown keys are",
        "refused. `pgbastion check` names every problem with its line and its remedy.",
        "",
    ]
    for name in File.model_fields:
        section = section_at([name])
        if section is None:
            continue
        lines += [f"## {name}", "", _section_text(section), ""]
        lines += ["| key | form | default | meaning |", "|---|---|---|---|"]
        lines += [_row(key) for key in _keys(section, name)]
        lines.append("")
    lines += ["## Profiles", ""]
    lines += _profiles()
    lines.append("")
    return "\n".join(lines)


def default_text(field: FieldInfo) -> str:
    """Return a key's default as it is written in the file; empty: there is none."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    return _value_text(value, _form(field))


def _keys(section: type[Section], path: str) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        full = f"{path}.{name}"
        below = section_at(full.split("."))
        if below is None:
            yield Key(full, field)
        else:
            for inner, inner_field in below.model_fields.items():
                yield Key(f"{full}.{inner}", inner_field)


def _example_of(key: Key) -> Iterator[str]:
    """Yield the comment and the line of a key, or of a section within a section."""
    below = section_at(key.path.split("."))
    yield _comment(key.field.description or "", "  ")
    if key.path in SPOKEN:
        yield f"  {key.name}: {_json_text(SPOKEN[key.path])}\n"
    elif below is None:
        yield f"  # {key.name}: {_shown(key.field)}\n"
    else:
        # One line for all of its keys: a second one would be a second section.
        for name, field in below.model_fields.items():
            yield _comment(f"- {name} - {field.description}", "  ")
        fields = below.model_fields.items()
        shown = {n: default_text(f) for n, f in fields if default_text(f)}
        inner = ", ".join(f"{name}: {text}" for name, text in shown.items())
        yield f"  # {key.name}: {{{inner}}}\n"


def _shown(field: FieldInfo) -> str:
    return default_text(field) or _example_text(field)


def _example_text(field: FieldInfo) -> str:
    return _json_text(field.examples[0]) if field.examples else ""


def _section_text(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split())


def _row(key: Key) -> str:
    name = key.path.partition(".")[2]
    shown = _default_cell(key)
    text = (key.field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_form_name(key.field)} | {shown} | {text} |"


def _default_cell(key: Key) -> str:
    if key.path in DERIVED:
        return "see right"
    if key.field.is_required():
        return "required"
    text = default_text(key.field)
    return f"`{text}`" if text else ""


def _profiles() -> list[str]:
    names = list(PROFILES)
    lines = [
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for field in next(iter(PROFILES.values())).__slots__:
        if field == "drift_ppm":
            continue
        values = [render_duration(getattr(PROFILES[name], field)) for name in names]
        label = field.removesuffix("_ms").replace("_", " ")
        lines.append(f"| {label} | " + " | ".join(values) + " |")
    least = [render_duration(smallest_lease_ms(PROFILES[name])) for name in names]
    lines.append("| shortest lease that closes | " + " | ".join(least) + " |")
    return lines


def _form(field: FieldInfo) -> str:
    # An optional key has its form inside the union with None.
    inner = [m for kind in get_args(field.annotation) for m in get_args(kind)]
    return next((m.name for m in (*field.metadata, *inner) if isinstance(m, Form)), "")


def _form_name(field: FieldInfo) -> str:
    named = _form(field).replace("_", " ")
    if named:
        return named
    if field.annotation in (bool, int):
        return "true or false" if field.annotation is bool else "number"
    return "word"


def _value_text(value: Any, form: str) -> str:
    if form == "sync_count" and value is None:
        return "auto"
    if value is None:
        return ""
    if form == "duration":
        return render_duration(value)
    if form == "size":
        return render_size(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return _json_text(list(value))
    return _json_text(value if isinstance(value, bool | int | dict) else str(value))


def _json_text(value: Any) -> str:
    """Return ``value`` in YAML's flow style, without quotes where none are needed."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_json_text(item) for item in value) + "]"
    if isinstance(value, dict):
        inner = ", ".join(f"{name}: {_json_text(v)}" for name, v in value.items())
        return "{" + inner + "}"
    if isinstance(value, str) and any(char in value for char in ":#[]{},\"'&*!|>%@`"):
        return json.dumps(value)
    return str(value)


def _comment(text: str, indent: str) -> str:
    wrapped = textwrap.wrap(text, WIDTH - len(indent) - 2)
    return "".join(f"{indent}# {line}\n" for line in wrapped)
