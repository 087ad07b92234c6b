// One figure of bones and joints, as two instanced meshes.

import {
  Color,
  CylinderGeometry,
  DynamicDrawUsage,
  Group,
  InstancedMesh,
  type Material,
  Matrix4,
  Quaternion,
  SphereGeometry,
  SRGBColorSpace,
  Vector3,
} from "three";
import type { Motion } from "./decode";
import type { Pose } from "./pose";
import type { RGB } from "./ramp";
import { BONE_RADIUS, jointRadii } from "./stage";

const UP = new Vector3(0, 1, 0);
const NOWHERE = new Matrix4().makeScale(0, 0, 0);

export type Shade = (amount: number, out: RGB) => RGB;

export class Figure3d {
  readonly group = new Group();
  private readonly bones: InstancedMesh;
  private readonly balls: InstancedMesh;
  private readonly links: [number, number][] = [];
  private readonly radii: number[];

  constructor(
    motion: Motion,
    private readonly body: number,
    material: Material,
  ) {
    const { joints, persons } = motion;
    for (let person = 0; person < persons; person++) {
      motion.data.parents.forEach((parent, joint) => {
        if (parent >= 0) this.links.push([person * joints + joint, person * joints + parent]);
      });
    }
    this.radii = jointRadii(motion.data.joints);
    this.bones = new InstancedMesh(new CylinderGeometry(1, 1, 1, 16, 1, true), material, this.links.length);
    this.balls = new InstancedMesh(new SphereGeometry(1, 24, 16), material, persons * joints);
    for (const mesh of [this.bones, this.balls]) {
      mesh.instanceMatrix.setUsage(DynamicDrawUsage);
      mesh.frustumCulled = false; // its bounds would be those of the first frame
      mesh.castShadow = true;
      this.group.add(mesh);
    }
  }

  /** @param thickness 1 for the full figure; thinner where it is drawn within another */
  update(pose: Pose, shade: Shade, thickness = 1): void {
    const joints = this.radii.length;
    const matrix = new Matrix4();
    const [from, to, along] = [new Vector3(), new Vector3(), new Vector3()];
    const turn = new Quaternion();
    const rgb: RGB = [0, 0, 0];
    const colour = new Color();
    const at = (index: number, out: Vector3): Vector3 => out.fromArray(pose.points, 3 * index);

    for (let i = 0; i < pose.shown.length; i++) {
      const radius = this.radii[i % joints] * this.body * thickness;
      if (pose.shown[i]) matrix.makeScale(radius, radius, radius).setPosition(at(i, from));
      this.balls.setMatrixAt(i, pose.shown[i] ? matrix : NOWHERE);
      shade(pose.amount[i], rgb);
      this.balls.setColorAt(i, colour.setRGB(...rgb, SRGBColorSpace));
    }
    this.links.forEach(([child, parent], i) => {
      along.subVectors(at(child, to), at(parent, from));
      const length = along.length();
      const drawn = pose.shown[child] && pose.shown[parent] && length > 1e-5 * this.body;
      if (drawn) {
        turn.setFromUnitVectors(UP, along.divideScalar(length));
        const radius = BONE_RADIUS * this.body * thickness;
        matrix.compose(from.add(to).multiplyScalar(0.5), turn, along.set(radius, length, radius));
      }
      this.bones.setMatrixAt(i, drawn ? matrix : NOWHERE);
      shade((pose.amount[child] + pose.amount[parent]) / 2, rgb);
      this.bones.setColorAt(i, colour.setRGB(...rgb, SRGBColorSpace));
    });
    for (const mesh of [this.bones, this.balls]) {
      mesh.instanceMatrix.needsUpdate = true;
      if (mesh.instanceColor) mesh.instanceColor.needsUpdate = true;
    }
  }

  dispose(): void {
    for (const mesh of [this.bones, this.balls]) {
      mesh.geometry.dispose();
      mesh.dispose();
    }
  }
}
