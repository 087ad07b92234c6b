"""A procedural human: proportions and joint limits, fourteen actions as tracks of joint angles, and virtual subjects."""
