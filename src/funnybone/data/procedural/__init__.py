"""A procedural human: a body with joint limits, fourteen actions as tracks of joint angles, and virtual subjects."""
