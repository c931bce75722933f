"""A YAML parser's complaint as an error that says the fact and what to do. Imported when there is one."""

from __future__ import annotations

from boxfile.likeness import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    import yaml

    from boxfile.source import Source
    from store.errors import BoxfileError


def syntax_error(source: Source, err: yaml.MarkedYAMLError) -> BoxfileError:
    """The error at the place that says most about it."""
    problem, context = err.problem or "not YAML", err.context or ""
    mark, start = err.problem_mark or err.context_mark, err.context_mark
    if mark and start and _says_more_at_its_start(problem, context, elsewhere=start.line != mark.line):
        mark = start
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    text = source.lines[line - 1] if line <= len(source.lines) else ""
    if not text and line > 1:  # the end of the file says little: point behind the last line that has a text
        line = min(line, len(source.lines))
        while line > 1 and not source.lines[line - 1].strip():
            line -= 1
        text = source.lines[line - 1]
        column = len(text) + 1
    message, hint = _explained(problem, context, text, column)
    if not hint and start and start.line + 1 != line:
        hint = f"{context} that starts at line {start.line + 1}"
    return source.error(message, line=line, column=column, hint=hint)


def _says_more_at_its_start(problem: str, context: str, *, elsewhere: bool) -> bool:
    """Whether a key without colon, an open quote or an open bracket began before the place where the parser gave up."""
    if "could not find expected ':'" in problem:
        return True
    return ("unexpected end of stream" in problem and "quoted" in context) or (elsewhere and "expected ',' or" in problem)


def _explained(problem: str, context: str, line: str, column: int) -> tuple[str, str]:
    """The fact and the hint for a mistake at `column` of `line`."""
    before, rest = line[: column - 1], line[column - 1 :]
    if rest.startswith("\t") or (before and not before.strip() and "\t" in before):
        return "a tab where YAML wants spaces", "indent with spaces"
    if rest[:1] in ("@", "`", "%"):
        return f"no value starts with {quoted(rest[0])}", "put the value in quotes"
    if "{{" in line and "expected ',' or" in problem:
        return "an argument without quotes", "inside [...] and {...}, put a value with ${{ }} in quotes"
    if "expected ',' or" in problem:
        closing = "]" if "sequence" in context else "}"
        if rest.startswith(("[", "{")):
            return f"this {quoted(rest[0])} has no '{closing}' where it should end", "close it, or put what is in it in quotes"
        return f"expected ',' or '{closing}'", "put a value with such characters in quotes"
    if "mapping values are not allowed" in problem:
        return "a ':' where none can be", "put a value that holds ': ' in quotes; else look at the indentation of the line above"
    if "could not find expected ':'" in problem:
        return "this line has no ':' after its key", "write 'key: value', or look at the indentation"
    if before.rstrip("&* ")[-1:] in ("'", '"'):
        return "text after the closing quote", "put the whole value in quotes"
    if "alphabetic or numeric" in problem:
        return "'&' and '*' start the name of an anchor here", "put the value in quotes"
    if "expected key" in problem or "expected <block end>" in problem or "expected '-' indicator" in problem:
        what = "items of one list" if rest.startswith("-") or "'-'" in problem else "keys of one mapping"
        return "this does not continue what is above", f"look at the indentation: {what} start in one column"
    if "unexpected end of stream" in problem and "quoted" in context:
        return "the closing quote is missing", "put it where the value ends"
    return problem, ""
