"""The example file and the reference come from the model and are true."""

import re

from pgbastion.config.document import default_text, render_example, render_reference
from pgbastion.config.model import File, Found, resolve, with_defaults
from pgbastion.config.parse import Document, parse_document, parse_file, section_at
from support.configs import FOUND


def understood(text: str, found: Found = FOUND) -> File:
    document = parse_document(text)
    assert isinstance(document, Document), document
    file = parse_file(with_defaults(document.values, found))
    assert not isinstance(file, list), file
    return file


def test_the_example_is_understood_as_it_stands() -> None:
    assert understood(render_example()).raft.bootstrap is True


def test_the_examples_defaults_are_the_programs() -> None:
    """Uncommented, every key that has a default says just that default."""
    example = render_example()
    with_all = re.sub(r"^  # (\w+: \S.*)$", r"  \1", example, flags=re.MULTILINE)
    assert with_all != example
    plain = understood(example)
    shown = understood(with_all)

    for name in File.model_fields:
        section, other = getattr(plain, name), getattr(shown, name)
        for key, field in type(section).model_fields.items():
            if default_text(field):
                assert getattr(section, key) == getattr(other, key), f"{name}.{key}"


def test_every_key_is_in_the_example_and_in_the_reference() -> None:
    example, reference = render_example(), render_reference()

    for name in File.model_fields:
        section = section_at([name])
        assert section is not None
        assert f"\n{name}:" in example
        for key in section.model_fields:
            assert re.search(rf"^  (# )?{key}: ", example, re.MULTILINE), key
            assert f"| `{key}" in reference


def test_every_key_has_a_meaning() -> None:
    for name in File.model_fields:
        section = section_at([name])
        assert section is not None
        assert section.__doc__
        assert all(field.description for field in section.model_fields.values())


def test_the_example_configuration_can_be_resolved() -> None:
    config = resolve(
        understood(render_example()), source=FOUND.run_dir / "x", found=FOUND
    )

    assert len(config.peers) == 2
