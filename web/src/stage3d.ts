// Drawing with WebGL through three.js: a floor, soft light from above, the figures and their shadows.

import {
  Color,
  DirectionalLight,
  GreaterDepth,
  HemisphereLight,
  MeshBasicMaterial,
  MeshStandardMaterial,
  NoToneMapping,
  PCFShadowMap,
  PerspectiveCamera,
  Scene as Space,
  SRGBColorSpace,
  WebGLRenderer,
} from "three";
import type { Motion } from "./decode";
import { Figure3d, type Shade } from "./figure3d";
import { Floor3d } from "./floor3d";
import type { Framing } from "./framing";
import type { Paint, Scene, Stage } from "./stage";

/** Overlaid, the clean figure is the core of the other: two of one size would flicker where they nearly coincide. */
const CORE = 0.5;
const COARSE = 0.6;

export class Stage3d implements Stage {
  readonly kind = "webgl";
  private readonly renderer: WebGLRenderer;
  private readonly space = new Space();
  private readonly camera = new PerspectiveCamera();
  private readonly sky = new HemisphereLight();
  private readonly sun = new DirectionalLight();
  private readonly solid = new MeshStandardMaterial({ roughness: 0.62, metalness: 0 });
  // Drawn only where something covers it: the clean figure shines through the adversarial one.
  private readonly veil = new MeshBasicMaterial({ transparent: true, opacity: 0.32, depthWrite: false });
  private readonly floor = new Floor3d();
  private clean: Figure3d | null = null;
  private adversarial: Figure3d | null = null;
  private hidden: Figure3d | null = null;
  private framing: Framing | null = null;
  private look: Paint | null = null;
  private size = { width: 1, height: 1 };

  /** Throws where the browser has no WebGL. */
  constructor(canvas: HTMLCanvasElement) {
    this.renderer = new WebGLRenderer({ canvas, antialias: true, powerPreference: "low-power" });
    this.renderer.toneMapping = NoToneMapping; // the legend's colours must be the figure's
    this.renderer.shadowMap.enabled = true;
    this.renderer.shadowMap.type = PCFShadowMap;
    this.coarse(false);
    this.renderer.setScissorTest(true);
    this.sun.castShadow = true;
    this.sun.shadow.mapSize.set(1024, 1024);
    this.sun.shadow.radius = 6;
    this.veil.depthFunc = GreaterDepth;
    this.space.add(this.sky, this.sun, this.sun.target, ...this.floor.parts);
  }

  load(motion: Motion, framing: Framing): void {
    for (const figure of [this.clean, this.adversarial, this.hidden]) {
      if (figure) this.space.remove(figure.group);
      figure?.dispose();
    }
    this.framing = framing;
    this.clean = new Figure3d(motion, framing.body, this.solid);
    this.adversarial = new Figure3d(motion, framing.body, this.solid);
    this.hidden = new Figure3d(motion, framing.body, this.veil);
    this.hidden.group.renderOrder = 1;
    this.hidden.group.traverse((part) => (part.castShadow = false));
    this.space.add(this.clean.group, this.adversarial.group, this.hidden.group);
    this.floor.load(framing);
  }

  resize(width: number, height: number): void {
    this.size = { width, height };
    this.renderer.setSize(width, height, false);
  }

  coarse(coarse: boolean): void {
    const ratio = Math.min(devicePixelRatio, 2) * (coarse ? COARSE : 1);
    if (ratio !== this.renderer.getPixelRatio()) this.renderer.setPixelRatio(ratio);
  }

  paint(paint: Paint): void {
    this.look = paint;
    this.renderer.setClearColor(new Color().setRGB(...paint.background, SRGBColorSpace));
    this.floor.paint(paint);
    this.sky.intensity = paint.dark ? 1.9 : 2.1;
    this.sky.groundColor.setScalar(paint.dark ? 0.45 : 0.62);
    this.sun.intensity = paint.dark ? 1.7 : 1.5;
  }

  draw(scene: Scene): void {
    if (!this.clean || !this.adversarial || !this.hidden || !this.look) return;
    const look = this.look;
    const plain: Shade = (_, out) => Object.assign(out, look.clean);
    const top = scene.top;
    const heat: Shade = (amount, out) =>
      top === null ? Object.assign(out, look.adversarial) : look.ramp.at(amount / top, out);
    const thickness = scene.overlay ? CORE : 1;
    this.clean.update(scene.clean, plain, thickness);
    this.adversarial.update(scene.adversarial, heat);
    if (scene.overlay) this.hidden.update(scene.clean, plain, thickness);
    this.hidden.group.visible = scene.overlay;

    const { width, height } = this.size;
    const half = Math.floor(width / 2);
    if (scene.overlay) this.view(0, width, height, true, true, scene);
    else {
      this.view(0, half, height, true, false, scene);
      this.view(half, width - half, height, false, true, scene);
    }
  }

  private view(x: number, width: number, height: number, clean: boolean, adversarial: boolean, scene: Scene): void {
    const from = scene.cameraFor(width / height);
    const body = this.framing?.body ?? 1;
    this.clean!.group.visible = clean;
    this.adversarial!.group.visible = adversarial;
    this.camera.fov = (from.fov * 180) / Math.PI;
    this.camera.aspect = width / height;
    this.camera.near = from.distance * 0.02;
    this.camera.far = from.distance * 4 + 20 * body;
    this.camera.position.set(...from.eye);
    this.camera.lookAt(...from.target);
    this.camera.updateProjectionMatrix();
    this.floor.centre(from.target[0], from.target[2]);
    this.light(from.target, body);
    this.renderer.setViewport(x, 0, width, height);
    this.renderer.setScissor(x, 0, width, height);
    this.renderer.render(this.space, this.camera);
  }

  /** The sun goes with what is looked at, so that its small shadow map is spent where the figures are. */
  private light([x, y, z]: number[], body: number): void {
    const reach = Math.max(body * 1.4, this.framing?.following.radius ?? 0) * 1.15;
    this.sun.target.position.set(x, y, z);
    this.sun.position.set(x + 1.1 * body, y + 3 * body, z + 1.4 * body);
    const { camera } = this.sun.shadow;
    camera.left = camera.bottom = -reach;
    camera.right = camera.top = reach;
    camera.near = 0.5 * body;
    camera.far = 8 * body;
    camera.updateProjectionMatrix();
    this.sun.shadow.normalBias = 0.01 * body;
  }
}
