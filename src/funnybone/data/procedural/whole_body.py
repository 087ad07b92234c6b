"""The actions of the whole body. How to read them: ``notation.py``."""

from funnybone.data.procedural.notation import Action, Role, Track


def _hold(degrees: float) -> Track:
    return ((0, degrees), (1, degrees))


WALK = Action(
    "walk",
    size=(0.75, 1.15),
    turn=1.4,
    hertz=0.92,
    roles=(
        Role(
            pose={"pelvis flex": _hold(3), "both elbow flex": _hold(24)},
            cycle={
                # Right heel strike at 0, left at 0.5, right toe-off near 0.6; shaped by eye after textbook gait curves.
                "each hip flex": ((0, 24), (0.12, 19), (0.32, 1), (0.52, -17), (0.6, -9), (0.76, 22), (0.88, 28)),
                "each knee flex": (
                    (0, 3),
                    (0.12, 13),
                    (0.36, 3),
                    (0.5, 16),
                    (0.6, 46),
                    (0.71, 66),
                    (0.86, 30),
                    (0.97, 2),
                ),
                "each ankle flex": (
                    (0, 18),
                    (0.1, 2),
                    (0.16, 0),
                    (0.36, -2),
                    (0.5, -26),
                    (0.59, -46),
                    (0.7, -16),
                    (0.86, 12),
                ),
                "each shoulder flex": ((0, -20), (0.5, 20)),
                "each elbow flex": ((0, -8), (0.5, 12)),
                "pelvis twist": ((0, 5), (0.5, -5)),
                "spine twist": ((0, -4), (0.5, 4)),
                "chest twist": ((0, -6), (0.5, 6)),
                "pelvis side": ((0, 0), (0.15, -2.5), (0.5, 0), (0.65, 2.5)),
            },
            manner={"both elbow flex": _hold(30), "spine flex": _hold(4), "pelvis flex": _hold(3)},
        ),
    ),
)

JOG = Action(
    "jog",
    size=(0.75, 1.1),
    turn=1.4,
    hertz=1.25,
    flight=((0.37, 0.49), (0.87, 0.99)),
    roles=(
        Role(
            pose={
                "pelvis flex": _hold(8),
                "spine flex": _hold(5),
                "both elbow flex": _hold(74),
                "neck flex": _hold(-4),
            },
            cycle={
                "each hip flex": ((0, 24), (0.15, 12), (0.36, -14), (0.44, -14), (0.6, 14), (0.74, 40), (0.9, 32)),
                "each knee flex": ((0, 10), (0.14, 26), (0.36, 8), (0.48, 62), (0.6, 92), (0.76, 66), (0.93, 14)),
                "each ankle flex": (
                    (0, 4),
                    (0.06, 0),
                    (0.22, -3),
                    (0.37, -32),
                    (0.46, -58),
                    (0.6, -44),
                    (0.75, -10),
                    (0.9, 4),
                ),
                "each shoulder flex": ((0, -38), (0.5, 24)),
                "each elbow flex": ((0, -8), (0.5, 12)),
                "pelvis twist": ((0, 6), (0.5, -6)),
                "spine twist": ((0, -6), (0.5, 6)),
                "chest twist": ((0, -9), (0.5, 9)),
            },
            manner={"both elbow flex": _hold(30), "pelvis flex": _hold(4), "both shoulder abduct": _hold(5)},
        ),
    ),
)

JUMP = Action(
    "jump",
    size=(0.6, 1.1),
    seconds=1.3,
    flight=((0.47, 0.74),),
    roles=(
        Role(
            pose={
                "both hip flex": ((0, 2), (0.32, 58), (0.46, 4), (0.58, 8), (0.72, 14), (0.82, 42), (1, 2)),
                "both knee flex": ((0, 4), (0.32, 86), (0.46, 4), (0.58, 14), (0.72, 22), (0.82, 64), (1, 4)),
                "both ankle flex": ((0, 0), (0.36, 0), (0.47, -44), (0.58, -48), (0.72, -18), (0.77, 0), (1, 0)),
                "pelvis flex": ((0, 1), (0.32, 36), (0.47, 2), (0.7, 5), (0.83, 22), (1, 1)),
                "spine flex": ((0, 2), (0.32, 12), (0.47, 0), (0.83, 8), (1, 2)),
                "both shoulder flex": ((0, 0), (0.28, -46), (0.48, 110), (0.58, 120), (0.82, 20), (1, 0)),
                "both shoulder abduct": ((0, 9), (0.3, 14), (0.5, 18), (0.82, 20), (1, 9)),
                "both elbow flex": ((0, 16), (0.28, 22), (0.48, 40), (0.82, 50), (1, 16)),
                "neck flex": ((0, 2), (0.32, -18), (0.5, -8), (1, 2)),
            },
            manner={
                "both shoulder flex": ((0, 0), (0.28, -6), (0.48, 48), (0.6, 40), (0.82, 6), (1, 0)),
                "both knee flex": ((0, 0), (0.48, 0), (0.6, 26), (0.72, 0), (1, 0)),
                "both hip flex": ((0, 0), (0.48, 0), (0.6, 18), (0.72, 0), (1, 0)),
            },
        ),
    ),
)

JUMPING_JACK = Action(
    "jumping jack",
    size=(0.55, 1.05),
    turn=0.8,
    hertz=0.95,
    flight=((0.12, 0.38), (0.62, 0.88)),
    roles=(
        Role(
            pose={"both elbow flex": _hold(22), "both hip twist": _hold(-12)},
            cycle={
                "both hip abduct": ((0, 0), (0.12, 3), (0.38, 22), (0.5, 24), (0.62, 21), (0.88, 1)),
                "both shoulder abduct": ((0, 0), (0.1, 12), (0.42, 130), (0.52, 138), (0.6, 128), (0.92, 8)),
                "both shoulder flex": ((0, 0), (0.3, 14), (0.5, 8), (0.8, 12)),
                "both hip flex": ((0, 14), (0.12, 2), (0.38, 3), (0.48, 10), (0.62, 2), (0.88, 3)),
                "both knee flex": ((0, 30), (0.12, 2), (0.38, 6), (0.48, 22), (0.62, 2), (0.88, 8)),
                "both ankle flex": ((0, 0), (0.12, -26), (0.36, -24), (0.46, 0), (0.62, -26), (0.86, -24)),
                "both elbow flex": ((0, 0), (0.25, 14), (0.5, 4), (0.75, 14)),
            },
            manner={"both elbow flex": _hold(16), "both shoulder flex": _hold(8)},
        ),
    ),
)

SQUAT = Action(
    "squat",
    size=(0.45, 1.1),
    seconds=1.4,
    roles=(
        Role(
            pose={
                "both hip flex": ((0, 2), (0.45, 78), (0.55, 78), (1, 2)),
                "both knee flex": ((0, 4), (0.45, 104), (0.55, 104), (1, 4)),
                "both hip abduct": ((0, 7), (0.45, 17), (0.55, 17), (1, 7)),
                "both hip twist": _hold(-14),
                "pelvis flex": ((0, 1), (0.45, 30), (0.55, 30), (1, 1)),
                "spine flex": ((0, 2), (0.5, 8), (1, 2)),
                "neck flex": ((0, 2), (0.5, -20), (1, 2)),
                "both shoulder flex": ((0, 0), (0.4, 72), (0.6, 72), (1, 0)),
                "both shoulder twist": ((0, 8), (0.5, 16), (1, 8)),
                "both elbow flex": ((0, 16), (0.45, 22), (0.55, 22), (1, 16)),
            },
            manner={
                "both shoulder flex": ((0, 0), (0.4, 28), (0.6, 28), (1, 0)),
                "both elbow flex": ((0, 0), (0.4, -16), (0.6, -16), (1, 0)),
                "pelvis flex": ((0, 0), (0.5, -8), (1, 0)),
            },
        ),
    ),
)

SIT_DOWN = Action(
    "sit down",
    size=(0.72, 1.05),
    seconds=1.3,
    roles=(
        Role(
            pose={
                "both hip flex": ((0, 2), (0.3, 26), (0.75, 84), (0.9, 86), (1, 86)),
                "both knee flex": ((0, 4), (0.3, 44), (0.75, 92), (0.9, 92), (1, 90)),
                "pelvis flex": ((0, 1), (0.42, 36), (0.75, 22), (1, -6)),
                "spine flex": ((0, 2), (0.45, 10), (1, 4)),
                "neck flex": ((0, 2), (0.4, 8), (0.8, -8), (1, 2)),
                "both shoulder flex": ((0, 0), (0.35, 24), (0.75, 34), (1, 24)),
                "both shoulder twist": ((0, 8), (1, 22)),
                "both elbow flex": ((0, 16), (0.4, 26), (1, 58)),
            },
            manner={
                # From hands that feel for the chair to hands that stretch ahead for balance.
                "both shoulder flex": ((0, 0), (0.4, 42), (0.7, 34), (1, 6)),
                "both elbow flex": ((0, 0), (0.5, -14), (1, 0)),
            },
        ),
    ),
)

PICK_UP = Action(
    "pick up",
    size=(0.7, 1.1),
    seconds=1.5,
    contact=0.47,
    height=(0.1, 0.8),
    roles=(
        Role(
            touch=("HandTipR",),
            reach=("pelvis flex",),
            pose={
                "pelvis flex": ((0, 1), (0.42, 66), (0.52, 68), (1, 2)),
                "spine flex": ((0, 2), (0.45, 30), (0.52, 30), (1, 2)),
                "chest flex": ((0, 4), (0.45, 18), (0.52, 18), (1, 4)),
                "chest twist": ((0, 0), (0.45, 14), (0.52, 14), (1, 0)),
                "spine side": ((0, 0), (0.45, 8), (0.52, 8), (1, 0)),
                "both hip flex": ((0, 2), (0.45, 50), (0.52, 50), (1, 2)),
                "both knee flex": ((0, 4), (0.45, 80), (0.52, 80), (1, 4)),
                "right shoulder flex": ((0, 0), (0.42, 98), (0.52, 100), (0.75, 40), (1, 14)),
                "right elbow flex": ((0, 16), (0.42, 12), (0.52, 10), (0.78, 72), (1, 66)),
                "right wrist flex": ((0, 6), (0.5, 24), (1, 14)),
                "left shoulder flex": ((0, 0), (0.45, 44), (0.55, 44), (1, 0)),
                "left elbow flex": ((0, 16), (0.45, 34), (0.55, 34), (1, 16)),
                "neck flex": ((0, 2), (0.3, 14), (0.5, -8), (1, 8)),
            },
            manner={
                # From bending the back over straight legs to going down by the knees.
                "both hip flex": ((0, 0), (0.45, 26), (0.52, 26), (1, 0)),
                "both knee flex": ((0, 0), (0.45, 34), (0.52, 34), (1, 0)),
                "pelvis flex": ((0, 0), (0.45, -20), (0.52, -20), (1, 0)),
                "right shoulder flex": ((0, 0), (0.45, -18), (0.52, -18), (1, 0)),
            },
        ),
    ),
)

KICK = Action(
    "kick",
    size=(0.55, 1.1),
    seconds=1.0,
    roles=(
        Role(
            pose={
                "right hip flex": ((0, 2), (0.3, -26), (0.55, 62), (0.66, 54), (0.88, 6), (1, 2)),
                "right knee flex": ((0, 4), (0.3, 56), (0.42, 74), (0.57, 6), (0.74, 36), (0.9, 18), (1, 4)),
                "right ankle flex": ((0, 0), (0.28, -58), (0.4, -52), (0.57, 36), (0.8, 0), (1, 0)),
                "left knee flex": ((0, 4), (0.3, 20), (0.55, 10), (0.85, 14), (1, 4)),
                "left hip flex": ((0, 2), (0.3, 12), (0.55, -4), (0.85, 6), (1, 2)),
                "pelvis flex": ((0, 1), (0.28, 12), (0.56, -14), (0.85, 2), (1, 1)),
                "pelvis twist": ((0, 0), (0.28, -14), (0.56, 14), (1, 0)),
                "pelvis side": ((0, 0), (0.3, -4), (0.55, -6), (0.85, -2), (1, 0)),
                "spine flex": ((0, 2), (0.28, 2), (0.56, 18), (1, 2)),
                "chest twist": ((0, 0), (0.28, 14), (0.56, -14), (1, 0)),
                "left shoulder flex": ((0, 0), (0.3, -20), (0.56, 44), (1, 0)),
                "right shoulder flex": ((0, 0), (0.3, 24), (0.56, -34), (1, 0)),
                "both shoulder abduct": ((0, 9), (0.35, 28), (0.6, 26), (1, 9)),
                "both elbow flex": ((0, 16), (0.4, 36), (1, 16)),
            },
            manner={
                "right hip flex": ((0, 0), (0.3, -4), (0.55, 22), (0.75, 8), (1, 0)),
                "right knee flex": ((0, 0), (0.42, 22), (0.56, -4), (1, 0)),
                "pelvis flex": ((0, 0), (0.55, -6), (1, 0)),
            },
        ),
    ),
)
