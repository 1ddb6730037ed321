"""The end of a command: errors as one sentence on stderr, and the exit status.

Exit statuses: 0 done, 1 it did not succeed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from ha_scheduler.errors import EXIT_BAD_INPUT, EXIT_FAILED, ControlError, OperatorError

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT

#: The settings of every group of commands.
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


class OneSentenceGroup(click.Group):
    """A group with every error as one line on stderr, without usage or traceback.

    A command returns its exit status; None is 0.
    """

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with one_sentence():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> NoReturn:
        with one_sentence():
            status = super().invoke(ctx)
        ctx.exit(status if isinstance(status, int) else 0)


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """End the process with one sentence for every error of a command."""
    try:
        yield
    except click.ClickException as error:
        sentence = error.format_message().replace("\n", " ").rstrip(".")
        fail(f"{sentence}; see --help for what can be given.", EXIT_BAD_INPUT)
    except OperatorError as error:
        fail(str(error), error.exit_status)
    except ControlError as error:
        fail(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)


def as_sentence(error: BaseException) -> str:
    """The text of ``error`` with one full stop at its end."""
    return f"{str(error).rstrip('.')}."


def fail(sentence: str, status: int) -> NoReturn:
    """Print to stderr, and exit."""
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(status)
