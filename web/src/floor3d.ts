// The floor: grid lines that stay one pixel wide at any distance and fade away around what is looked at.

import { Color, Mesh, PlaneGeometry, ShaderMaterial, ShadowMaterial, SRGBColorSpace, Vector2 } from "three";
import type { Framing } from "./framing";
import { gridSpacing, type Paint } from "./stage";

const VERTEX = `
varying vec2 ground;
void main() {
  vec4 place = modelMatrix * vec4(position, 1.0);
  ground = place.xz;
  gl_Position = projectionMatrix * viewMatrix * place;
}`;

// Where cells get smaller than a pixel the lines would shimmer: they fade before that.
const FRAGMENT = `
uniform float spacing, reach;
uniform vec2 middle;
uniform vec3 colour;
varying vec2 ground;
void main() {
  vec2 cell = ground / spacing;
  vec2 width = fwidth(cell);
  vec2 lines = 1.0 - smoothstep(0.1, 1.2, abs(fract(cell - 0.5) - 0.5) / width);
  lines *= 1.0 - smoothstep(0.12, 0.4, width);
  float fade = 1.0 - smoothstep(0.25, 1.0, distance(ground, middle) / reach);
  gl_FragColor = vec4(colour, max(lines.x, lines.y) * fade);
  #include <colorspace_fragment>
}`;

export class Floor3d {
  readonly parts: Mesh[];
  private readonly lines = new ShaderMaterial({
    vertexShader: VERTEX,
    fragmentShader: FRAGMENT,
    transparent: true,
    depthWrite: false,
    uniforms: {
      spacing: { value: 1 },
      reach: { value: 1 },
      middle: { value: new Vector2() },
      colour: { value: new Color() },
    },
  });
  private readonly shade = new ShadowMaterial({ transparent: true, depthWrite: false });

  constructor() {
    this.parts = [this.lines, this.shade].map((material) => {
      const mesh = new Mesh(new PlaneGeometry(1, 1), material);
      mesh.rotation.x = -Math.PI / 2;
      mesh.frustumCulled = false;
      return mesh;
    });
    this.parts[1].receiveShadow = true;
  }

  load({ body, floor }: Framing): void {
    this.lines.uniforms.spacing.value = gridSpacing(body);
    this.lines.uniforms.reach.value = 4.5 * body;
    for (const part of this.parts) {
      part.scale.setScalar(10 * body);
      part.position.y = floor;
    }
  }

  paint(paint: Paint): void {
    (this.lines.uniforms.colour.value as Color).setRGB(...paint.grid, SRGBColorSpace);
    this.shade.opacity = paint.dark ? 0.42 : 0.16;
  }

  /** The plane goes with what is looked at; its lines stay where they are. */
  centre(x: number, z: number): void {
    (this.lines.uniforms.middle.value as Vector2).set(x, z);
    for (const part of this.parts) part.position.set(x, part.position.y, z);
  }
}
