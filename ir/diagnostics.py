"""Locations, and every error that `tunesmith` raises on purpose.

```
CompilerError
├── FrontendError            a model cannot be imported
│   ├── UnsupportedOp        … because of operators that we do not know, all of them listed
│   └── UndecidedError       … because elements of inputs decide what it is; it names the inputs
├── ParseError               the text of a graph or of a pipeline is not valid
├── VerifyError              a graph breaks a rule
├── PassError                a pass cannot run as it was asked to
├── BackendError             a graph cannot be lowered or built
│   ├── UnsupportedTarget    … for this target, or not on this machine
│   └── BuildError           … because the code generator or the linker failed
├── TuneError                a search cannot go on
├── TimeLimit                compiling took longer than it may
└── ArtifactError            a file cannot be written, opened or trusted
    └── InputError           the tensors handed to an executable do not fit it
```
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ArtifactError",
    "BackendError",
    "BuildError",
    "CompilerError",
    "FrontendError",
    "InputError",
    "Location",
    "ParseError",
    "PassError",
    "TimeLimit",
    "TuneError",
    "UndecidedError",
    "UnsupportedOp",
    "UnsupportedTarget",
    "VerifyError",
]


@dataclass(frozen=True)
class Location:
    """Where a node comes from: name and operator of the imported node, or a line of text."""

    name: str = ""
    operator: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.file and self.line:
            return f"{self.file}:{self.line}"
        label = f"node `{self.name}`" if self.name else ""
        if self.operator:
            label += f" ({self.operator})" if label else f"operator `{self.operator}`"
        return label or self.file or "an unnamed place"


UNKNOWN = Location()


class CompilerError(Exception):
    """An error with a place and a way out: `where: error: message`, then `hint: …`."""

    def __init__(
        self, message: str, *, where: str | Location | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = None if where is None else str(where)
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: error: {self.message}" if self.where else self.message
        notes = [n for n in getattr(self, "__notes__", ()) if isinstance(n, str)]
        lines = [head, *notes]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class FrontendError(CompilerError):
    """A model cannot be imported."""


class UnsupportedOp(FrontendError):
    """A model uses operators that have no import rule; the message lists all of them."""


class UndecidedError(FrontendError):
    """The elements of `inputs` decide sizes or choices: with their values fixed it may import."""

    def __init__(
        self, message: str, inputs: tuple[str, ...], *, where: str | Location | None = None,
        hint: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message, where=where, hint=hint)
        self.inputs = inputs


class ParseError(CompilerError):
    """The text of a graph or of a pipeline is not valid."""


class VerifyError(CompilerError):
    """A graph breaks a rule of the IR."""


class PassError(CompilerError):
    """A pass cannot run as it was asked to."""


class BackendError(CompilerError):
    """A graph cannot be lowered or built."""


class UnsupportedTarget(BackendError):
    """The target is unknown, or this machine cannot run it."""


class BuildError(BackendError):
    """The code generator or the linker failed."""


class TuneError(CompilerError):
    """A search cannot go on."""


class TimeLimit(CompilerError):
    """Compiling took longer than it may."""


class ArtifactError(CompilerError):
    """A file cannot be written, opened or trusted."""


class InputError(ArtifactError):
    """The tensors handed to an executable do not fit its inputs."""
