"""How a command ends that failed: the error and its hint, or, for a bug of ours, a reproducer."""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tunesmith.cli_console import error as print_error
from tunesmith.cli_console import note
from tunesmith.ir.diagnostics import CompilerError, TimeLimit
from tunesmith.settings import Settings

__all__ = ["USAGE", "USER_ERROR", "TOO_LONG", "OUR_BUG", "explain"]  # noqa: RUF022  # by value

USER_ERROR, USAGE, TOO_LONG, OUR_BUG = 1, 2, 4, 70
_GRAPH_LIMIT = 16 << 20  # characters


def explain(error: Exception, arguments: Sequence[str]) -> int:
    """Print what went wrong and how to go on; the result is the exit status."""
    if Settings.read().traceback:
        traceback.print_exception(error)
    if isinstance(error, CompilerError):
        head = f"{error.where}: {error.message}" if error.where else error.message
        notes = [n for n in getattr(error, "__notes__", ()) if isinstance(n, str)]
        print_error("\n  ".join([head, *notes]), error.hint)
        return TOO_LONG if isinstance(error, TimeLimit) else USER_ERROR
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        return _usage(error)
    if isinstance(error, MemoryError):
        print_error("there is not enough memory", "use a smaller model, or smaller `--dim` bounds")
        return USER_ERROR
    if isinstance(error, OSError) and error.filename is not None:
        print_error(f"{error.filename}: {(error.strerror or str(error)).lower()}")
        return USER_ERROR
    return _bug(error, arguments)


def _usage(error: Exception) -> int:
    """An error of click, in our style."""
    possibilities = getattr(error, "possibilities", None)
    option = getattr(error, "option_name", None)
    text = str(error.format_message())  # type: ignore[attr-defined]  # checked by the caller
    message, _, hint = text.partition("\n")
    if possibilities and option:
        message = f"there is no option `{option}`"
        hint = f"did you mean {' or '.join(f'`{p}`' for p in sorted(possibilities))}?"
    elif " Did you mean " in message:
        message, _, hint = message.partition(" Did you mean ")
        hint = f"did you mean {hint}"
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "tunesmith")
    message = message[:1].lower() + message[1:].rstrip(".").replace("'", "`")
    if type(error).__name__ == "NoArgsIsHelpError":
        print(text, file=sys.stderr)
        return USAGE
    print_error(message, hint.replace("'", "`") or f"`{command} --help` lists the options")
    return int(getattr(error, "exit_code", USAGE))


def _bug(error: Exception, arguments: Sequence[str]) -> int:
    print_error(f"this is a bug of ours: {type(error).__name__}: {_first_line(error)}")
    try:
        path = _write_reproducer(error, arguments)
    except OSError as failure:
        note(f"a reproducer could not be written: {failure}")
        traceback.print_exception(error)
    else:
        note(f"hint: please report it with the reproducer `{path}`")
    return OUR_BUG


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _write_reproducer(error: Exception, arguments: Sequence[str]) -> Path:
    """The command, the versions, the traceback and the graph, in one new file."""
    from tunesmith.cli_doctor import versions

    name = f"tunesmith-crash-{time.strftime('%Y%m%d-%H%M%S')}-"
    graph = _graph_text(error)
    comment = "# " if graph is None else "// "
    head = [
        f"tunesmith {shlex.join(arguments)}",
        f"python {platform.python_version()} on {platform.platform()}",
        *(f"{package} {version}" for package, version in versions().items()),
        "",
        *"".join(traceback.format_exception(error)).splitlines(),
    ]
    text = "\n".join(f"{comment}{line}".rstrip() for line in head) + "\n" + (graph or "")
    for folder in (Settings.read().crash_folder, tempfile.gettempdir()):
        try:
            with tempfile.NamedTemporaryFile(
                "w", dir=folder, prefix=name, suffix=".nir" if graph else ".txt", delete=False
            ) as file:
                file.write(text)
            return Path(file.name)
        except OSError as failure:
            last = failure
    raise last


def _graph_text(error: BaseException) -> str | None:
    """The text of the graph that the innermost frame was working on, if there was one."""
    module = sys.modules.get("tunesmith.ir.graph")
    trace = error.__traceback__
    found: object = None
    while trace is not None and module is not None:
        candidate = trace.tb_frame.f_locals.get("graph")
        found = candidate if isinstance(candidate, module.Graph) else found
        trace = trace.tb_next
    try:
        return None if found is None else str(found)[:_GRAPH_LIMIT]
    except Exception:  # the graph may be what is broken: the rest of the report still counts
        return None
