// Stick figures on a plain canvas, for browsers without WebGL. Same camera, same colours, no light.

import type { Motion } from "./decode";
import type { Camera, Framing, Point } from "./framing";
import type { Pose } from "./pose";
import { cssColour, type RGB } from "./ramp";
import { BONE_RADIUS, gridSpacing, jointRadii, type Paint, type Scene, type Stage } from "./stage";

interface Spot {
  x: number;
  y: number;
  scale: number; // pixels for one unit of the data at this depth
  depth: number;
}

type Project = (x: number, y: number, z: number) => Spot | null;

export class Stage2d implements Stage {
  readonly kind = "canvas";
  private readonly context: CanvasRenderingContext2D;
  private motion: Motion | null = null;
  private framing: Framing | null = null;
  private look: Paint | null = null;
  private radii: number[] = [];
  private size = { width: 1, height: 1 };

  constructor(private readonly canvas: HTMLCanvasElement) {
    const context = canvas.getContext("2d");
    if (!context) throw new Error("no 2-D canvas");
    this.context = context;
  }

  load(motion: Motion, framing: Framing): void {
    this.motion = motion;
    this.framing = framing;
    this.radii = jointRadii(motion.data.joints);
  }

  resize(width: number, height: number): void {
    const ratio = Math.min(devicePixelRatio, 2);
    this.size = { width, height };
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  paint(paint: Paint): void {
    this.look = paint;
  }

  /** Sticks are quick enough as they are. */
  coarse(): void {}

  draw(scene: Scene): void {
    if (!this.look || !this.framing) return;
    const { width, height } = this.size;
    const look = this.look;
    const rgb: RGB = [0, 0, 0];
    const plain = (): string => cssColour(look.clean);
    const heat = (amount: number): string =>
      cssColour(scene.top === null ? look.adversarial : look.ramp.at(amount / scene.top, rgb));
    this.context.fillStyle = cssColour(look.background);
    this.context.fillRect(0, 0, width, height);
    const half = Math.floor(width / 2);
    const views = scene.overlay ? [{ x: 0, width }] : [{ x: 0, width: half }, { x: half, width: width - half }];
    views.forEach((view, index) => {
      this.context.save();
      this.context.beginPath();
      this.context.rect(view.x, 0, view.width, height);
      this.context.clip();
      const project = projection(scene.cameraFor(view.width / height), view.x, view.width, height);
      this.floor(project);
      if (index === 1 || scene.overlay) this.figure(scene.adversarial, project, heat, 1);
      // Overlaid, the clean figure is the thin core of the other, as in stage3d.
      if (index === 0) this.figure(scene.clean, project, plain, scene.overlay ? 0.5 : 1);
      this.context.restore();
    });
  }

  private floor(project: Project): void {
    const { body, floor, still } = this.framing!;
    const spacing = gridSpacing(body);
    const reach = Math.ceil((still.radius + 1.2 * body) / spacing) * spacing;
    const [x, z] = [still.centre[0], still.centre[2]].map((value) => Math.round(value / spacing) * spacing);
    this.context.strokeStyle = cssColour(this.look!.grid);
    this.context.lineWidth = 1;
    this.context.beginPath();
    for (let offset = -reach; offset <= reach + spacing / 2; offset += spacing) {
      this.line(project(x - reach, floor, z + offset), project(x + reach, floor, z + offset));
      this.line(project(x + offset, floor, z - reach), project(x + offset, floor, z + reach));
    }
    this.context.stroke();
  }

  private figure(pose: Pose, project: Project, shade: (amount: number) => string, thickness: number): void {
    const { joints, data } = this.motion!;
    const body = this.framing!.body;
    const spots = Array.from(pose.shown, (shown, i) =>
      shown ? project(...(pose.points.subarray(3 * i, 3 * i + 3) as unknown as Point)) : null,
    );
    const parts: { depth: number; draw: () => void }[] = [];
    const { context } = this;
    spots.forEach((spot, i) => {
      if (!spot) return;
      const parent = data.parents[i % joints];
      const other = parent < 0 ? null : spots[i - (i % joints) + parent];
      if (other) {
        const colour = shade((pose.amount[i] + pose.amount[i - (i % joints) + parent]) / 2);
        parts.push({
          depth: (spot.depth + other.depth) / 2,
          draw: () => {
            context.strokeStyle = colour;
            context.lineWidth = Math.max(2 * thickness, BONE_RADIUS * body * thickness * (spot.scale + other.scale));
            context.beginPath();
            this.line(spot, other);
            context.stroke();
          },
        });
      }
      const colour = shade(pose.amount[i]);
      const size = this.radii[i % joints] * body;
      parts.push({
        depth: spot.depth - 1e-3 * body,
        draw: () => {
          context.fillStyle = colour;
          context.beginPath();
          context.arc(spot.x, spot.y, Math.max(1.5, size * spot.scale) * thickness, 0, 2 * Math.PI);
          context.fill();
        },
      });
    });
    context.lineCap = "round";
    for (const part of parts.sort((a, b) => b.depth - a.depth)) part.draw();
  }

  private line(from: Spot | null, to: Spot | null): void {
    if (!from || !to) return;
    this.context.moveTo(from.x, from.y);
    this.context.lineTo(to.x, to.y);
  }
}

function projection({ eye, target, fov }: Camera, left: number, width: number, height: number): Project {
  const forward = unit([target[0] - eye[0], target[1] - eye[1], target[2] - eye[2]]);
  const right = unit([-forward[2], 0, forward[0]]);
  const up: Point = [
    right[1] * forward[2] - right[2] * forward[1],
    right[2] * forward[0] - right[0] * forward[2],
    right[0] * forward[1] - right[1] * forward[0],
  ];
  const focal = height / 2 / Math.tan(fov / 2);
  return (x, y, z) => {
    const to: Point = [x - eye[0], y - eye[1], z - eye[2]];
    const depth = dot(to, forward);
    if (depth <= 0) return null;
    const scale = focal / depth;
    return { x: left + width / 2 + dot(to, right) * scale, y: height / 2 - dot(to, up) * scale, scale, depth };
  };
}

function dot(a: Point, b: Point): number {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function unit(a: Point): Point {
  const length = Math.hypot(...a) || 1;
  return [a[0] / length, a[1] / length, a[2] / length];
}
