"""The JSON schema of the language, for editors, made from the same tables that the parser reads by.

`python -m boxfile.schema` prints it; `boxfile/schema.json` is that text. It knows what this version does, and judges a value with
an argument in it only as far as one can before the argument is known.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from boxfile.document import DOCUMENT_KEYS
from boxfile.kinds import fields_schema
from boxfile.steps import step_schema


def schema() -> dict[str, Any]:
    """The schema, by JSON Schema 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Boxfile",
        "description": "How a container image is built, for box.",
        **fields_schema(DOCUMENT_KEYS),
        "$defs": {"step": step_schema()},
    }


def text() -> str:
    """The schema as it is checked in."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
