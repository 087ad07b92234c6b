"""Audits that are small, slow where they have to be, and killed: ``python audits_for_tests.py FOLDER``.

Run as a program, because a test cannot kill itself. It forks its children from one process with one thread, so that
torch is imported once for all of them.
"""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch

import funnybone as fb
from funnybone.auditing import Entry, Suite, audit, files, ledger
from funnybone.testing import linear_victim, random_clips
from funnybone.threat import Linf

CLIPS = 70  # three chunks


class Slow(torch.nn.Module):
    """A module that takes its time."""

    def __init__(self, module, seconds):
        super().__init__()
        self.module, self.seconds = module, seconds

    def forward(self, xyz):
        time.sleep(self.seconds)
        return self.module(xyz)


def clips():
    return random_clips(CLIPS, absent=True)


def victim(seconds=0.0):
    """Right on every clip; from the first to the last, the border is farther and farther away."""
    own = clips()
    plain = linear_victim(own, distance=0.05)
    sign = 1.0 - 2.0 * own.labels
    plain.module.shift += 0.05 * sign * torch.linspace(-0.5, 0.5, len(own))
    return fb.TorchVictim(Slow(plain.module, seconds), skeleton=plain.skeleton, classes=plain.classes, name="slow")


def small_suite(steps=12):
    """Some of the clips fall to the first, all of them to the second."""
    attack = fb.create_attack("pgd", steps=steps, step_size=0.2)
    goal = fb.goals.AnythingBut()
    return Suite("small", (Entry(attack, goal, Linf(0.003), "tight"), Entry(attack, goal, Linf(0.02), "wide")))


def run(folder, **settings):
    return audit(victim(0.002), clips(), suite=small_suite(), out=folder, **settings)


def shown_suite():
    """One attack on the victim, one on surrogates."""
    far = fb.create_attack("mifgsm", steps=6, step_size=0.2, early_stop=False)
    entries = small_suite().entries[:1]
    return Suite("shown", entries, transfer=(Entry(far, fb.goals.AnythingBut(), Linf(0.02), "far"),))


def surrogates():
    """Two planes of other directions than the victim's; the second gets some clips wrong."""
    own = clips()
    planes = {
        name: linear_victim(own, generator=torch.Generator().manual_seed(seed)) for name, seed in (("a", 2), ("b", 3))
    }
    planes["b"].module.shift[::7] *= -20
    return planes


def run_shown(folder, **settings):
    """Two chunks; three surrogates, the ensemble among them, on three targets."""
    return audit(victim(), clips()[:40], surrogates=surrogates(), suite=shown_suite(), out=folder, **settings)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_at(moment):
    """Patch this process so that it is killed at a moment: ``("commit", 2)`` is in the second transaction."""
    what, count = moment
    calls = {"n": 0}

    def reached():
        calls["n"] += 1
        return calls["n"] == count

    if what in ("before replace", "after replace"):
        whole = os.replace

        def replace(source, target):
            if what == "before replace" and reached():
                die()
            whole(source, target)
            if what == "after replace" and reached():
                die()

        files.os.replace = replace
    else:
        whole_transaction = ledger.Ledger._transaction

        @contextmanager
        def transaction(self):
            with whole_transaction(self):
                yield
                if reached():
                    die()

        ledger.Ledger._transaction = transaction


MOMENTS = (  # one after the other in one folder: each finds what the one before it left
    ("commit", 1),  # of the new ledger
    ("before replace", 1),  # of the clean clips
    ("after replace", 1),
    ("commit", 1),  # of the clean predictions
    ("before replace", 1),  # of the first chunk's clips
    ("after replace", 1),
    ("commit", 1),  # of the first chunk's rows
    ("after replace", 2),
    ("before replace", 3),
    ("commit", 2),
    ("before replace", 3),  # of audit.json
)


SHOWN_MOMENTS = (  # likewise, of an audit with surrogates
    (
        "after replace",
        5,
    ),  # of a surrogate's first clips: the clean ones, the victim's two chunks and one more are there
    ("commit", 8),  # of a target's answers: five chunks of surrogates were left
    ("commit", 5),
    ("before replace", 1),  # of audit.json
)


def in_child(work):
    """Fork, do it there, and return the child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def was_killed(child):
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def killed_at(folder, moment, run=run):
    def work():
        dies_at(moment)
        run(folder)

    return was_killed(in_child(work))


def killed_after(folder, steps, meanwhile=lambda: None):
    """Kill a running audit when it has told its progress so many times."""
    reading, writing = os.pipe()
    child = in_child(lambda: run(folder, progress=lambda *_: os.write(writing, b".")))
    os.close(writing)
    for _ in range(steps):
        os.read(reading, 1)
    meanwhile()
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    return was_killed(child)


def main(folder):
    torch.set_num_threads(1)
    run(folder / "whole")
    said = []

    def refused():
        try:
            run(folder / "timed")
        except fb.DataError as error:
            said.append(str(error))

    killed = [killed_at(folder / "pieces", moment) for moment in MOMENTS]
    killed += [killed_after(folder / "timed", 1, refused)]
    killed += [killed_after(folder / "timed", steps) for steps in (6, 20, 20)]
    run(folder / "pieces")
    run(folder / "timed")
    run_shown(folder / "shown-whole")
    killed += [killed_at(folder / "shown-pieces", moment, run_shown) for moment in SHOWN_MOMENTS]
    run_shown(folder / "shown-pieces")
    print(json.dumps({"killed": killed, "refused": said}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
