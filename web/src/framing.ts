// Where to stand so that the clip fills the view.

import type { Motion } from "./decode";
import type { Orbit } from "./orbit";

export type Point = [number, number, number];

export interface Camera {
  eye: Point;
  target: Point;
  fov: number; // vertical, radians
  distance: number;
}

export interface Framing {
  /** How tall the figures are: the measure for bones, grid and camera, whatever the unit of the data. */
  body: number;
  floor: number;
  /** Middle of the figures on the ground plane, frame by frame, smoothed: what a camera that follows looks at. */
  path: Float32Array; // (frames, 2): x, z
  still: Box;
  following: Box;
  /** How far the figures travel, in body heights. */
  travel: number;
}

/** An upright cylinder: what must stay in sight from any side. */
interface Box {
  centre: Point;
  radius: number;
  half: number;
}

const FOV = (28 * Math.PI) / 180;
const SMOOTH_SECONDS = 0.5;

export function frameMotion(motion: Motion): Framing {
  const { frames, joints, persons, clean, cleanSeen } = motion;
  const path = new Float32Array(frames * 2);
  const heights: number[] = [];
  const low: Point = [Infinity, Infinity, Infinity];
  const high: Point = [-Infinity, -Infinity, -Infinity];
  let known = -1;
  for (let frame = 0; frame < frames; frame++) {
    const middle = [0, 0];
    let count = 0;
    for (let person = 0; person < persons; person++) {
      let [bottom, top, left, right] = [Infinity, -Infinity, Infinity, -Infinity];
      for (let joint = 0; joint < joints; joint++) {
        const i = (person * frames + frame) * joints + joint;
        if (!cleanSeen[i]) continue;
        const [x, y, z] = clean.subarray(3 * i, 3 * i + 3);
        [bottom, top, left, right] = [Math.min(bottom, y), Math.max(top, y), Math.min(left, x), Math.max(right, x)];
        for (let c = 0; c < 3; c++) {
          low[c] = Math.min(low[c], clean[3 * i + c]);
          high[c] = Math.max(high[c], clean[3 * i + c]);
        }
        middle[0] += x;
        middle[1] += z;
        count++;
      }
      if (top >= bottom) heights.push(Math.max(top - bottom, 0.6 * (right - left)));
    }
    if (count === 0) {
      // Nobody is there: look where they were last.
      path.copyWithin(2 * frame, 2 * Math.max(known, 0), 2 * Math.max(known, 0) + 2);
      continue;
    }
    path[2 * frame] = middle[0] / count;
    path[2 * frame + 1] = middle[1] / count;
    if (known < 0) for (let f = 0; f < frame; f++) path.copyWithin(2 * f, 2 * frame, 2 * frame + 2);
    known = frame;
  }
  heights.sort((a, b) => a - b);
  const body = heights[Math.floor(heights.length * 0.9)] || 1;
  const smooth = smoothed(path, Math.round((SMOOTH_SECONDS * motion.data.fps) / 2));
  const centre: Point = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2];
  const half = (high[1] - low[1]) / 2;
  return {
    body,
    floor: low[1] - 0.03 * body,
    path: smooth,
    still: { centre, half, radius: reach(motion, () => [centre[0], centre[2]]) },
    following: { centre, half, radius: reach(motion, (f) => [smooth[2 * f], smooth[2 * f + 1]]) },
    travel: Math.hypot(spread(path, 0), spread(path, 1)) / body,
  };
}

/** The camera for a view of this shape. Both views of a pair get the same one. */
export function cameraFor(framing: Framing, orbit: Orbit, aspect: number, frame: number, follow: boolean): Camera {
  const box = follow ? framing.following : framing.still;
  const target: Point = [...box.centre];
  if (follow) {
    const low = Math.min(Math.floor(frame), framing.path.length / 2 - 1);
    const high = Math.min(low + 1, framing.path.length / 2 - 1);
    const share = frame - low;
    target[0] = framing.path[2 * low] * (1 - share) + framing.path[2 * high] * share;
    target[2] = framing.path[2 * low + 1] * (1 - share) + framing.path[2 * high + 1] * share;
  }
  const upright = Math.tan(FOV / 2);
  const margin = 0.08 * framing.body;
  const tall = box.half * Math.cos(orbit.pitch) + box.radius * Math.abs(Math.sin(orbit.pitch)) + margin;
  const fit = Math.max(tall / upright, (box.radius + margin) / (upright * aspect)) + 0.5 * box.radius;
  const distance = fit / orbit.zoom;
  const flat = Math.cos(orbit.pitch) * distance;
  const eye: Point = [
    target[0] + Math.sin(orbit.yaw) * flat,
    target[1] + Math.sin(orbit.pitch) * distance,
    target[2] + Math.cos(orbit.yaw) * flat,
  ];
  return { eye, target, fov: FOV, distance };
}

/** How far the joints get from a moving middle on the ground plane. */
function reach(motion: Motion, middle: (frame: number) => number[]): number {
  const { frames, joints, persons, clean, cleanSeen } = motion;
  let largest = 0;
  for (let row = 0; row < persons * frames; row++) {
    const [x, z] = middle(row % frames);
    for (let i = row * joints; i < (row + 1) * joints; i++) {
      if (cleanSeen[i]) largest = Math.max(largest, Math.hypot(clean[3 * i] - x, clean[3 * i + 2] - z));
    }
  }
  return largest;
}

function spread(path: Float32Array, axis: number): number {
  const values = path.filter((_, i) => i % 2 === axis);
  return values.reduce((a, b) => Math.max(a, b), -Infinity) - values.reduce((a, b) => Math.min(a, b), Infinity);
}

function smoothed(path: Float32Array, half: number): Float32Array {
  const frames = path.length / 2;
  const out = new Float32Array(path.length);
  for (let frame = 0; frame < frames; frame++) {
    // The window shrinks towards the ends on both sides alike, so that it does not lean inwards there.
    const width = Math.min(half, frame, frames - 1 - frame);
    for (let f = frame - width; f <= frame + width; f++) {
      out[2 * frame] += path[2 * f] / (2 * width + 1);
      out[2 * frame + 1] += path[2 * f + 1] / (2 * width + 1);
    }
  }
  return out;
}
