"""The command line: results on stdout, diagnostics on stderr, one line and exit code 2 for a bad question."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer

from moesim.reports.cli.calibrate import calibrate
from moesim.reports.cli.catalogue import init, schema, show
from moesim.reports.cli.comm import comm
from moesim.reports.cli.compare import compare
from moesim.reports.cli.plan import plan
from moesim.reports.cli.report import report
from moesim.reports.cli.serve import serve
from moesim.reports.cli.sweep import sweep
from moesim.reports.cli.train import train
from moesim.reports.cli.validate import validate
from moesim.reports.cli.whatif import whatif
from moesim.reports.failures import complain, guarded

app = typer.Typer(
    name="moesim",
    help="Predict what it costs to train and serve mixture-of-experts models on GPU clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    train, serve, compare, plan, sweep, whatif, report, comm, validate, calibrate, show, init, schema,
):  # fmt: skip
    app.command()(_command)

# what the parser raises for unknown commands, options and values: the parent of typer.BadParameter's parent
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[2])

# options that other commands have, and which to ask instead
_ELSEWHERE = {
    "--set": "`moesim sweep FILE --set KEY=VALUE,VALUE` answers a scenario with other values of its keys, "
    "for example --set layout.tp=1,2,4",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"moesim {version('moesim')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""

    def command() -> int:
        try:
            result = typer.main.get_command(app).main(
                args=None if arguments is None else list(arguments), prog_name="moesim", standalone_mode=False
            )
        except _UsageError as error:
            if not str(error):  # no command given: the help was printed
                return 2
            return complain(f"{_usage_text(error)}; see `moesim --help`")
        except typer.Abort:
            raise KeyboardInterrupt from None
        return result if isinstance(result, int) else 0

    return guarded(command)


def _usage_text(error: Exception) -> str:
    """The parser's sentence, lower case at its start, no full stop at its end."""
    format_message = getattr(error, "format_message", None)
    text = str(format_message() if format_message else error).strip().rstrip(".")
    elsewhere = _ELSEWHERE.get(getattr(error, "option_name", None) or "")
    if elsewhere is not None:  # instead of options that are spelled like it
        text = f"{text.partition(' (')[0]} of this command; {elsewhere}"
    return text[:1].lower() + text[1:]


def main() -> None:
    """Entry point of the `moesim` command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
