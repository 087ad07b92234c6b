"""The rest of the actions: those of the arms and those of two persons. How to read them: ``notation.py``."""

from funnybone.data.procedural.notation import Action, Role, Tracks

_GUARD: Tracks = {
    "left shoulder flex": ((0, 0), (0.2, 34), (0.5, 24), (0.8, 30), (1, 0)),
    "left shoulder twist": ((0, 8), (0.2, 30), (0.8, 26), (1, 8)),
    "left elbow flex": ((0, 16), (0.2, 104), (0.75, 100), (1, 16)),
}

PUNCH = Action(
    "punch",
    size=(0.75, 1.1),
    seconds=0.85,
    roles=(
        Role(
            pose={
                **_GUARD,
                "right shoulder flex": ((0, 0), (0.18, 18), (0.32, -14), (0.52, 84), (0.6, 84), (0.82, 26), (1, 0)),
                "right shoulder abduct": ((0, 9), (0.32, 18), (0.52, 2), (1, 9)),
                "right shoulder twist": ((0, 8), (0.3, 18), (0.52, 42), (1, 8)),
                "right elbow flex": ((0, 16), (0.18, 92), (0.34, 122), (0.52, 10), (0.6, 12), (0.82, 86), (1, 16)),
                "right elbow pronate": ((0, 15), (0.34, 0), (0.52, 62), (1, 15)),
                "pelvis twist": ((0, 0), (0.3, -16), (0.52, 22), (0.62, 20), (1, 0)),
                "spine twist": ((0, 0), (0.3, -8), (0.52, 10), (0.62, 9), (1, 0)),
                "chest twist": ((0, 0), (0.3, -12), (0.52, 16), (0.62, 14), (1, 0)),
                "pelvis flex": ((0, 1), (0.3, 0), (0.54, 10), (1, 1)),
                "left hip flex": ((0, 2), (0.3, 16), (0.5, 22), (0.66, 22), (1, 2)),
                "left knee flex": ((0, 4), (0.3, 24), (0.5, 24), (0.66, 24), (1, 4)),
                "right hip flex": ((0, 2), (0.5, -10), (0.66, -10), (1, 2)),
                "right knee flex": ((0, 4), (0.3, 14), (0.5, 12), (1, 4)),
                "right ankle flex": ((0, 0), (0.3, 0), (0.52, -14), (0.66, -12), (1, 0)),
            },
            manner={
                "right elbow flex": ((0, 0), (0.4, 0), (0.54, 40), (0.7, 20), (1, 0)),
                "right shoulder abduct": ((0, 0), (0.35, 18), (0.5, 24), (0.7, 0), (1, 0)),
                "right shoulder flex": ((0, 0), (0.52, 8), (1, 0)),
            },
        ),
    ),
)

THROW = Action(
    "throw",
    size=(0.6, 1.1),
    seconds=1.1,
    roles=(
        Role(
            pose={
                "right shoulder abduct": ((0, 9), (0.36, 84), (0.5, 74), (0.6, 24), (0.74, -18), (1, 9)),
                "right shoulder flex": ((0, 0), (0.36, 22), (0.47, 52), (0.58, 116), (0.74, 54), (1, 0)),
                "right shoulder twist": ((0, 8), (0.36, -66), (0.46, -78), (0.58, 0), (0.74, 36), (1, 8)),
                "right elbow flex": ((0, 16), (0.34, 100), (0.46, 96), (0.58, 16), (0.74, 26), (1, 16)),
                "right wrist flex": ((0, 6), (0.44, -28), (0.6, 34), (1, 6)),
                "left shoulder flex": ((0, 0), (0.36, 66), (0.58, 10), (0.74, -16), (1, 0)),
                "left shoulder abduct": ((0, 9), (0.36, 34), (0.58, 20), (1, 9)),
                "left elbow flex": ((0, 16), (0.36, 26), (0.58, 66), (1, 16)),
                "pelvis twist": ((0, 0), (0.36, -34), (0.56, 18), (0.74, 28), (1, 0)),
                "spine twist": ((0, 0), (0.36, -10), (0.58, 8), (0.74, 12), (1, 0)),
                "chest twist": ((0, 0), (0.36, -16), (0.46, -14), (0.58, 14), (0.74, 20), (1, 0)),
                "pelvis flex": ((0, 1), (0.34, -6), (0.58, 12), (0.74, 24), (1, 1)),
                "spine flex": ((0, 2), (0.38, -4), (0.74, 18), (1, 2)),
                "left hip flex": ((0, 2), (0.3, 36), (0.46, 26), (0.72, 28), (1, 2)),
                "left knee flex": ((0, 4), (0.28, 52), (0.46, 18), (0.72, 28), (1, 4)),
                "right hip flex": ((0, 2), (0.3, 0), (0.48, -16), (0.72, -14), (1, 2)),
                "right knee flex": ((0, 4), (0.3, 12), (0.5, 18), (0.72, 30), (1, 4)),
                "right ankle flex": ((0, 0), (0.36, 0), (0.56, -26), (0.74, -36), (1, 0)),
            },
            manner={
                # From overarm to the side.
                "right shoulder abduct": ((0, 0), (0.36, -16), (0.58, 26), (0.74, 0), (1, 0)),
                "right shoulder flex": ((0, 0), (0.36, 0), (0.58, -28), (0.74, -6), (1, 0)),
                "left hip flex": ((0, 0), (0.3, -10), (1, 0)),
                "left knee flex": ((0, 0), (0.3, -16), (1, 0)),
            },
        ),
    ),
)

WAVE = Action(
    "wave",
    size=(0.75, 1.15),
    seconds=1.8,
    hertz=1.75,
    during=((0, 0), (0.14, 0), (0.28, 1), (0.78, 1), (0.9, 0), (1, 0)),
    roles=(
        Role(
            pose={
                "right shoulder abduct": ((0, 9), (0.24, 66), (0.8, 64), (1, 9)),
                "right shoulder flex": ((0, 0), (0.24, 26), (0.8, 26), (1, 0)),
                "right shoulder twist": ((0, 8), (0.24, -70), (0.8, -70), (1, 8)),
                "right elbow flex": ((0, 16), (0.22, 104), (0.8, 102), (1, 16)),
                "right elbow pronate": ((0, 15), (0.24, 40), (0.8, 40), (1, 15)),
                "spine side": ((0, 0), (0.3, -3), (0.8, -3), (1, 0)),
            },
            cycle={
                "right elbow flex": ((0, -24), (0.5, 24)),
                "right shoulder twist": ((0.1, -8), (0.6, 8)),
                "right wrist flex": ((0.12, -18), (0.62, 18)),
                "right shoulder abduct": ((0.05, 4), (0.55, -4)),
            },
            manner={
                "right shoulder abduct": ((0, 0), (0.24, 34), (0.8, 34), (1, 0)),
                "right shoulder flex": ((0, 0), (0.24, 8), (0.8, 8), (1, 0)),
                "right elbow flex": ((0, 0), (0.24, -26), (0.8, -26), (1, 0)),
            },
        ),
    ),
)

CLAP = Action(
    "clap",
    size=(0.85, 1.1),
    seconds=1.75,
    hertz=2.0,
    during=((0, 0), (0.12, 0), (0.26, 1), (0.8, 1), (0.92, 0), (1, 0)),
    roles=(
        Role(
            # Hands that aim at each other meet, whatever the posture.
            steady=0.92,
            pose={
                "both shoulder flex": ((0, 0), (0.22, 42), (0.82, 42), (1, 0)),
                "both shoulder abduct": ((0, 9), (0.22, 12), (0.82, 12), (1, 9)),
                "both shoulder twist": ((0, 8), (0.22, 30), (0.82, 30), (1, 8)),
                "both elbow flex": ((0, 16), (0.2, 78), (0.82, 76), (1, 16)),
                "neck flex": ((0, 2), (0.3, 6), (1, 2)),
            },
            cycle={
                "both shoulder twist": ((0, -22), (0.4, 4), (0.5, 8), (0.6, 4)),
                "both shoulder abduct": ((0, 8), (0.5, -6)),
                "both elbow flex": ((0, 5), (0.5, -5)),
            },
            manner={
                "both shoulder flex": ((0, 0), (0.22, 26), (0.82, 26), (1, 0)),
                "both elbow flex": ((0, 0), (0.22, 8), (0.82, 8), (1, 0)),
            },
        ),
    ),
)

_SHAKER = Role(
    steady=0.5,
    touch=("HandR",),
    reach=("right shoulder flex",),
    pose={
        "right shoulder flex": ((0, 0), (0.28, 44), (0.74, 42), (1, 0)),
        "right shoulder abduct": ((0, 9), (0.28, 6), (0.74, 6), (1, 9)),
        "right shoulder twist": ((0, 8), (0.28, 14), (0.74, 14), (1, 8)),
        "right elbow flex": ((0, 16), (0.26, 46), (0.74, 48), (1, 16)),
        "right elbow pronate": ((0, 15), (0.28, 4), (0.74, 4), (1, 15)),
        "chest twist": ((0, 0), (0.28, 10), (0.74, 10), (1, 0)),
        "pelvis flex": ((0, 1), (0.3, 9), (0.72, 8), (1, 1)),
        "neck flex": ((0, 2), (0.35, -4), (0.6, 6), (1, 2)),
        "right hip flex": ((0, 2), (0.22, 20), (0.32, 14), (0.74, 14), (1, 2)),
        "right knee flex": ((0, 4), (0.2, 30), (0.32, 8), (0.74, 8), (1, 4)),
        "left hip flex": ((0, 2), (0.32, -8), (0.74, -8), (1, 2)),
        "left ankle flex": ((0, 0), (0.32, -6), (0.74, -6), (1, 0)),
    },
    cycle={"right elbow flex": ((0, -8), (0.5, 8)), "right shoulder flex": ((0, -5), (0.5, 5))},
    manner={"right elbow flex": ((0, 0), (0.3, 14), (0.74, 14), (1, 0)), "pelvis flex": ((0, 0), (0.3, 5), (1, 0))},
)

SHAKE_HANDS = Action(
    "shake hands",
    size=(0.8, 1.1),
    turn=0.0,
    seconds=1.75,
    hertz=2.4,
    during=((0, 0), (0.26, 0), (0.36, 1), (0.66, 1), (0.78, 0), (1, 0)),
    contact=0.5,
    gap=0.02,
    handed=False,
    roles=(_SHAKER, _SHAKER),
)

PUSH = Action(
    "push",
    size=(0.65, 1.1),
    turn=0.0,
    seconds=1.2,
    contact=0.45,
    gap=0.09,
    roles=(
        Role(
            touch=("HandL", "HandR"),
            reach=("left shoulder flex", "right shoulder flex"),
            pose={
                "both shoulder flex": ((0, 0), (0.24, 26), (0.42, 80), (0.56, 82), (0.82, 16), (1, 0)),
                "both shoulder abduct": ((0, 9), (0.26, 22), (0.46, 4), (1, 9)),
                "both shoulder twist": ((0, 8), (0.26, 14), (0.46, 26), (1, 8)),
                "both elbow flex": ((0, 16), (0.24, 116), (0.43, 20), (0.52, 12), (0.62, 24), (0.8, 40), (1, 16)),
                "both wrist deviate": ((0, 0), (0.3, 14), (0.5, 20), (1, 0)),
                "pelvis flex": ((0, 1), (0.24, -2), (0.44, 16), (0.62, 14), (1, 1)),
                "spine flex": ((0, 2), (0.5, 8), (1, 2)),
                "neck flex": ((0, 2), (0.5, -14), (1, 2)),
                "left hip flex": ((0, 2), (0.26, 26), (0.42, 22), (0.66, 22), (1, 2)),
                "left knee flex": ((0, 4), (0.26, 38), (0.44, 26), (0.66, 26), (1, 4)),
                "right hip flex": ((0, 2), (0.28, -4), (0.44, -17), (0.66, -16), (1, 2)),
                "right knee flex": ((0, 4), (0.3, 10), (0.48, 6), (1, 4)),
                "right ankle flex": ((0, 0), (0.3, -2), (0.5, -24), (0.66, -20), (1, 0)),
            },
            manner={
                # From both hands to the right one.
                "left shoulder flex": ((0, 0), (0.46, -22), (0.6, -18), (1, 0)),
                "left elbow flex": ((0, 0), (0.46, 30), (0.6, 20), (1, 0)),
                "chest twist": ((0, 0), (0.26, -6), (0.47, 12), (1, 0)),
            },
        ),
        Role(
            touch=("SpineShoulder", "SpineMid"),
            pose={
                # Pushed at 0.45, thrown back over the left leg, caught by a step back of the right, then of the left.
                "pelvis flex": ((0, 1), (0.42, 1), (0.52, -18), (0.7, -6), (0.86, 6), (1, 3)),
                "spine flex": ((0, 2), (0.42, 2), (0.52, 18), (0.7, 16), (1, 4)),
                "neck flex": ((0, 2), (0.42, 0), (0.54, 28), (0.72, 4), (1, 2)),
                "left hip flex": ((0, 2), (0.42, 2), (0.64, 24), (0.74, 34), (0.88, -10), (1, 2)),
                "left knee flex": ((0, 4), (0.42, 3), (0.6, 2), (0.66, 18), (0.76, 68), (0.88, 16), (1, 6)),
                "left ankle flex": ((0, 0), (0.6, 0), (0.66, 6), (0.76, 0), (0.86, -12), (0.94, 0), (1, 0)),
                "right hip flex": ((0, 2), (0.42, 2), (0.52, 16), (0.63, -24), (0.7, -16), (0.9, 12), (1, 4)),
                "right knee flex": ((0, 4), (0.42, 4), (0.52, 66), (0.63, 20), (0.72, 14), (0.9, 10), (1, 6)),
                "right ankle flex": ((0, 0), (0.42, 0), (0.52, -10), (0.63, -30), (0.7, -8), (0.78, 0), (1, 0)),
                "both shoulder flex": ((0, 0), (0.42, 0), (0.56, 48), (0.74, 30), (1, 4)),
                "both shoulder abduct": ((0, 9), (0.42, 9), (0.58, 40), (0.78, 28), (1, 12)),
                "both elbow flex": ((0, 16), (0.42, 16), (0.6, 48), (1, 24)),
                "chest twist": ((0, 0), (0.42, 0), (0.56, -12), (0.8, 4), (1, 0)),
            },
            manner={
                "both shoulder abduct": ((0, 0), (0.42, 0), (0.58, 24), (0.8, 10), (1, 0)),
                "both shoulder flex": ((0, 0), (0.42, 0), (0.58, 20), (0.8, 10), (1, 0)),
            },
        ),
    ),
)
