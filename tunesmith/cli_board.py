"""`tunesmith board`: the machine that lists boards, and the boards."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli_console import note

__all__ = ["board_app", "warn_of_rpc"]

_LOOPBACK = "127.0.0.1"

board_app = typer.Typer(
    help="Measure on boards, by TVM's RPC. It has no login: whoever reaches its ports can run any "
    "code there. Both commands listen on this machine alone unless told otherwise.",
    no_args_is_help=True,
)
Host = Annotated[
    str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; see docs/tuning.md.")
]


def warn_of_rpc(where: str) -> None:
    """Say, where the user meets it, that nothing protects TVM's RPC."""
    note(f"TVM's RPC has no login: whoever reaches {where} can run any code there. "
         "Keep it to this machine, and go to others by `ssh -L` (docs/tuning.md).")  # fmt: skip


@board_app.command("tracker")
def _tracker(
    host: Host = _LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 9190,
) -> None:
    """List the boards that offer themselves, and give them to who asks; until Ctrl-C."""
    from tunesmith.autotune.rpc_server import run_tracker

    warn_of_rpc(f"{host}:{port}")
    run_tracker(host, port, note)


@board_app.command("serve")
def _serve(
    tracker: Annotated[
        str, typer.Option("--tracker", metavar="HOST:PORT", help="Where the tracker is.")
    ],
    key: Annotated[
        str, typer.Option("--key", metavar="NAME", help="What machines of this kind are called.")
    ],
    host: Host = _LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 9090,
) -> None:
    """Offer this machine for measuring, to one client at a time; until Ctrl-C."""
    from tunesmith.autotune.rpc_server import run_server
    from tunesmith.board import BoardSession
    from tunesmith.places import parse_address

    if not key or not key.isascii() or any(c in ": " for c in key):
        raise typer.BadParameter(f"`{key}` is no key: take letters, digits and dashes")
    warn_of_rpc(f"{host}:{port}")
    run_server(parse_address(tracker), key, host, port,
               lambda folder: BoardSession(folder).ask, note)  # fmt: skip
