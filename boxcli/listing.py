"""How `ps`, `images` and `history` print what they found: a table for people, ids with -q, --format for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from boxcli import escapes, templates
from boxcli.table import Option, Values

QUIET = Option("-q", "--quiet", about="Print only the ids.")
NO_TRUNC = Option("--no-trunc", about="Do not shorten anything.")
FORMAT = Option(
    "--format", metavar="json|TEMPLATE", about="Print 'json', one object a line, or a template such as '{{.ID}} {{.Size}}'."
)


def show(
    values: Values, rows: Iterable[Mapping[str, object]], columns: Sequence[tuple[str, str]], *, identity: str = "ID"
) -> None:
    """Print the rows as the options of `values` ask for; `columns` are (head, field) of the table."""
    if values.flag("quiet"):
        for row in rows:
            print(row[identity])
        return
    wanted = values.text("format")
    if wanted.startswith("table ") or wanted in ("", "table"):
        template = wanted.removeprefix("table").strip()
        if template:
            columns = [(_head(field), field) for field in templates.fields_of(template)]
            templates.compile_format(template)
        print_table([head for head, _ in columns], ([_cell(row, field) for _, field in columns] for row in rows))
        return
    render = templates.compile_format(wanted)
    for row in rows:
        print(render(row))


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as their widest cell, three spaces between them."""
    table = [list(heads), *([escapes.one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(row: Mapping[str, object], field: str) -> str:
    value: object = row
    for name in field.split("."):
        value = value.get(name, "") if isinstance(value, Mapping) else ""
    return value if isinstance(value, str) else templates.to_json(value)


def _head(field: str) -> str:
    words = "".join(
        f" {letter}" if letter.isupper() and not before.isupper() else letter
        for before, letter in zip("A" + field, field, strict=False)
    )
    return words.strip().upper().replace(".", " ")
