// A motion at one moment, between frames too.

import type { Motion } from "./decode";

export interface Pose {
  points: Float32Array; // (persons, joints, 3)
  shown: Uint8Array; // (persons, joints)
  amount: Float32Array; // displacement of each joint, in the unit that is shown
}

export function emptyPose(motion: Motion): Pose {
  const count = motion.persons * motion.joints;
  return { points: new Float32Array(count * 3), shown: new Uint8Array(count), amount: new Float32Array(count) };
}

/**
 * Write the pose at a fractional frame: between two frames on a straight line; next to a frame that is not valid, the
 * nearer frame alone decides, so that nobody glides in from where he was not.
 *
 * `push` is how many displacements to add to the clean motion: 0 the clean one, 1 the adversarial one, more exaggerates.
 */
export function samplePose(motion: Motion, frame: number, push: number, pose: Pose): void {
  const { persons, frames, joints, clean, displacement, amount } = motion;
  const seen = push === 0 ? motion.cleanSeen : motion.adversarialSeen;
  const before = Math.min(Math.max(Math.floor(frame), 0), frames - 1);
  const after = Math.min(before + 1, frames - 1);
  const share = Math.min(Math.max(frame - before, 0), 1);
  for (let person = 0; person < persons; person++) {
    for (let joint = 0; joint < joints; joint++) {
      const out = person * joints + joint;
      let a = (person * frames + before) * joints + joint;
      let b = (person * frames + after) * joints + joint;
      if (!seen[a] || !seen[b]) a = b = share < 0.5 ? a : b;
      pose.shown[out] = seen[a];
      pose.amount[out] = amount[a] + (amount[b] - amount[a]) * share;
      for (let c = 0; c < 3; c++) {
        const from = clean[3 * a + c] + push * displacement[3 * a + c];
        const to = clean[3 * b + c] + push * displacement[3 * b + c];
        pose.points[3 * out + c] = from + (to - from) * share;
      }
    }
  }
}
