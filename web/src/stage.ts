// What every renderer can do; stage3d.ts draws with WebGL, stage2d.ts where there is none.

import type { Motion } from "./decode";
import type { Camera, Framing } from "./framing";
import type { Pose } from "./pose";
import { Ramp, parseColour, type RGB } from "./ramp";

export interface Paint {
  background: RGB;
  grid: RGB;
  clean: RGB;
  adversarial: RGB;
  ramp: Ramp;
  dark: boolean;
}

export interface Scene {
  clean: Pose;
  adversarial: Pose;
  /** Displacement that gets the last colour of the ramp, in the unit that is shown; null: one colour for all. */
  top: number | null;
  overlay: boolean;
  cameraFor(aspect: number): Camera;
}

export interface Stage {
  readonly kind: "webgl" | "canvas";
  load(motion: Motion, framing: Framing): void;
  resize(width: number, height: number): void;
  paint(paint: Paint): void;
  draw(scene: Scene): void;
  /** Draw with fewer pixels, for a machine that cannot keep up. */
  coarse(coarse: boolean): void;
}

/** The colours of the page's present theme. */
export function readPaint(element: Element): Paint {
  const style = getComputedStyle(element);
  const colour = (name: string): RGB => parseColour(style.getPropertyValue(name));
  return {
    background: colour("--stage"),
    grid: colour("--stage-grid"),
    clean: colour("--figure-clean"),
    adversarial: colour("--figure-adversarial"),
    ramp: new Ramp(style.getPropertyValue("--ramp")),
    dark: document.documentElement.dataset.theme === "dark",
  };
}

/** Spacing of the floor grid: a round length near a quarter of the body. */
export function gridSpacing(body: number): number {
  const power = 10 ** Math.floor(Math.log10(body / 4));
  return [1, 2, 5].map((digit) => digit * power).reduce((best, step) =>
    Math.abs(step - body / 4) < Math.abs(best - body / 4) ? step : best,
  );
}

/** Sphere radii in body heights: a head is a head, everything else a joint. */
export function jointRadii(names: string[]): number[] {
  return names.map((name) => (/^head$/i.test(name) ? 0.05 : 0.017));
}

export const BONE_RADIUS = 0.0125;
