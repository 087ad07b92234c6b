"""The fourteen classes, in the order of their labels."""

from funnybone.data.procedural import gestures, whole_body

ACTIONS = (
    whole_body.WALK,
    whole_body.JOG,
    whole_body.JUMP,
    whole_body.JUMPING_JACK,
    whole_body.SQUAT,
    whole_body.SIT_DOWN,
    whole_body.PICK_UP,
    whole_body.KICK,
    gestures.PUNCH,
    gestures.THROW,
    gestures.WAVE,
    gestures.CLAP,
    gestures.SHAKE_HANDS,
    gestures.PUSH,
)
