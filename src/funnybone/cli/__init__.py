"""The command line. Each command is one file of this package, loaded when it is called; help loads no torch."""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError

import funnybone
from funnybone.cli.config import apply_config
from funnybone.errors import DataError

HELP = """Find where a skeleton-based activity classifier is weak, show it, and harden it.

Results go to standard output, progress to standard error. Exit status: 0 done, 1 failed, 2 wrong usage or unusable \
input, 130 interrupted. Options of a command can stand in a TOML file: funnybone audit audit.toml. With --debug a \
failure shows its traceback."""

RESUMABLE = (["audit"], ["harden"], ["train"])

app = App(
    name="funnybone",
    help=HELP,
    help_format="plaintext",
    version=funnybone.__version__,
    config=apply_config,
    result_action="return_none",
    print_error=False,
    exit_on_error=False,
    suppress_keyboard_interrupt=False,
)
app.command("funnybone.cli.audit:audit", name="audit", help="Attack victims with a suite of attacks; write a report.")
app.command("funnybone.cli.attack:attack", name="attack", help="Attack one victim with one attack.")
app.command("funnybone.cli.harden:harden", name="harden", help="Harden one victim with one defense.")
app.command("funnybone.cli.train:train", name="train", help="Train a victim from scratch.")
app.command("funnybone.cli.report:report", name="report", help="Write the HTML report of an audit's folder.")
app.command("funnybone.cli.compare:compare", name="compare", help="Several audits as one leaderboard.")

_data = App(name="data", help="Data sets and motion files.")
_data.command("funnybone.cli.data:list_data", name="list", help="The data sets that have a name, and the formats.")
_data.command("funnybone.cli.data:info", name="info", help="What is in a data set or a file.")
_data.command("funnybone.cli.data:natural", name="natural", help="Learn what natural motion is, for --natural.")
app.command(_data)

_models = App(name="models", help="Models and the weights that come with funnybone.")
_models.command("funnybone.cli.models:list_models", name="list", help="The models, their size and their weights.")
_models.command(
    "funnybone.cli.models:import_weights", name="import", help="Make a victim of a checkpoint of an authors' code."
)
_models.command("funnybone.cli.models:push", name="push", help="Publish a weights file, with a model card.")
app.command(_models)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Before torch is loaded, which reads it once. OpenMP's threads spin while they wait for each other: where other
    # programs want the cores as well, that takes the time from the thread that they are waiting for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tokens = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    more = "; the same command continues where it stopped" if tokens[:1] in RESUMABLE else ""
    try:
        app(tokens)
        sys.stdout.flush()
        return 0
    except CycloptsError as error:
        error.verbose = False
        command = " ".join(("funnybone", *(error.command_chain or ())))
        return _fail(f"{error} See {command} --help.", 2, debug)
    except DataError as error:
        return _fail(str(error), 2, debug)
    except KeyboardInterrupt:
        return _fail(f"interrupted{more}", 130, debug)
    except BrokenPipeError:
        # The reader has left. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return _fail(f"failed: {what} (--debug shows where){more}", 1, debug)


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"funnybone: {' '.join(message.split())}\n")
    return status
