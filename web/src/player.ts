// The motion player: puts the parts together and keeps them in step.

import { decode, type ExampleData, type Motion } from "./decode";
import { cameraFor, frameMotion, type Framing } from "./framing";
import { Orbit } from "./orbit";
import { Panel } from "./panel";
import { Playback } from "./playback";
import { emptyPose, samplePose, type Pose } from "./pose";
import { rampTop } from "./ramp";
import { readPaint, type Paint, type Stage } from "./stage";
import { Stage2d } from "./stage2d";
import { Stage3d } from "./stage3d";

const START_PITCH = 0.16;
const START_TURN = 0.5; // a little to one side of the face: depth shows
const FOLLOW_FROM = 0.35; // body heights travelled
const LONGEST_STEP = 0.25; // seconds; a tab that was away does not jump
const SLOW = 0.045; // seconds for a frame, on average, from which fewer pixels are drawn while playing

class Player {
  private readonly panel: Panel;
  private readonly canvas: HTMLCanvasElement;
  private readonly stage: Stage;
  private readonly orbit: Orbit;
  private readonly playback = new Playback(1, 1);
  private motion!: Motion;
  private framing!: Framing;
  private poses!: { clean: Pose; adversarial: Pose };
  private paint!: Paint;
  private top = 1;
  private stale = true;
  private inSight = false;
  private touched = false;
  private before = 0;
  private pace = 0;

  constructor(
    root: HTMLElement,
    private readonly examples: ExampleData[],
  ) {
    this.panel = new Panel(root);
    ({ canvas: this.canvas, stage: this.stage } = openStage(this.panel.stage));
    root.dataset.renderer = this.stage.kind;
    this.orbit = new Orbit(this.canvas, () => this.refresh());
    this.panel.listExamples(examples);
    this.listen();
    this.repaint();
    this.choose(0);
    new ResizeObserver(() => this.resize()).observe(this.panel.stage);
    new IntersectionObserver((entries) => this.seen(entries), { threshold: [0, 0.35] }).observe(this.panel.stage);
    requestAnimationFrame((now) => this.tick(now));
  }

  private choose(index: number): void {
    this.motion = decode(this.examples[index]);
    this.framing = frameMotion(this.motion);
    this.poses = { clean: emptyPose(this.motion), adversarial: emptyPose(this.motion) };
    this.top = rampTop(this.motion.amount, this.motion.adversarialSeen);
    this.playback.load(this.motion.frames, this.motion.data.fps);
    this.stage.load(this.motion, this.framing);
    const flat = this.motion.data.dimensions === 2;
    this.orbit.setHome(flat ? 0 : (this.motion.data.facing ?? 0) + START_TURN, flat ? 0 : START_PITCH);
    this.panel.follow.checked = this.framing.travel > FOLLOW_FROM;
    this.panel.describe(this.motion);
    this.recolour();
  }

  private listen(): void {
    const { panel } = this;
    panel.example.addEventListener("change", () => this.choose(Number(panel.example.value)));
    panel.play.addEventListener("click", () => this.toggle());
    panel.back.addEventListener("click", () => this.step(-1));
    panel.forth.addEventListener("click", () => this.step(1));
    panel.scrub.addEventListener("input", () => this.seek(Number(panel.scrub.value)));
    // With a step of "any" the browser's arrow keys would move by a hundredth of the clip, not by a frame.
    panel.scrub.addEventListener("keydown", (event) => this.scrubKey(event));
    panel.speed.addEventListener("change", () => (this.playback.speed = Number(panel.speed.value)));
    for (const control of [panel.push, panel.colour]) control.addEventListener("change", () => this.recolour());
    for (const control of [panel.follow, panel.overlay, panel.sideBySide]) {
      control.addEventListener("change", () => this.relayout());
    }
    panel.reset.addEventListener("click", () => this.orbit.reset());
    panel.root.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("themechange", () => this.repaint());
  }

  private relayout(): void {
    this.panel.root.dataset.mode = this.panel.overlay.checked ? "overlay" : "side";
    this.refresh();
  }

  private recolour(): void {
    this.panel.exaggerated(Number(this.panel.push.value));
    this.panel.legend(this.paint, this.panel.colour.checked ? this.top : null, this.motion.data.unit);
    this.refresh();
  }

  private repaint(): void {
    this.paint = readPaint(this.panel.root);
    this.stage.paint(this.paint);
    if (this.motion) this.recolour();
  }

  private resize(): void {
    const { clientWidth, clientHeight } = this.panel.stage;
    if (clientWidth === 0 || clientHeight === 0) return;
    this.stage.resize(clientWidth, clientHeight);
    // At once: an emptied canvas must not be seen until the next frame.
    this.draw();
  }

  private seen(entries: IntersectionObserverEntry[]): void {
    const last = entries[entries.length - 1];
    this.inSight = last.isIntersecting;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (!this.touched && !calm && last.intersectionRatio >= 0.35) this.setPlaying(true);
  }

  private setPlaying(playing: boolean): void {
    this.touched = true;
    if (playing && this.playback.frame >= this.playback.last) this.playback.seek(0);
    this.playback.playing = playing;
    this.pace = 0;
    if (!playing) this.stage.coarse(false); // at rest there is time for all of them
    this.panel.playing(playing);
    this.refresh();
  }

  private toggle(): void {
    this.setPlaying(!this.playback.playing);
  }

  private seek(frame: number): void {
    this.setPlaying(false);
    this.playback.seek(frame);
    this.refresh();
  }

  private step(frames: number): void {
    this.seek(Math.round(this.playback.frame) + frames);
  }

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && !target.matches("button, select, input[type=checkbox], input[type=radio]")) this.toggle();
    else if (event.key === "Home" && !target.matches("select")) this.seek(0);
    else if (event.key === "End" && !target.matches("select")) this.seek(this.playback.last);
    else return;
    event.preventDefault();
  }

  private scrubKey(event: KeyboardEvent): void {
    const steps: Record<string, number> = {
      ArrowLeft: -1,
      ArrowDown: -1,
      ArrowRight: 1,
      ArrowUp: 1,
      PageDown: -10,
      PageUp: 10,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.step(steps[event.key]);
  }

  private refresh(): void {
    this.stale = true;
  }

  /** Draws only when something changed: a paused page costs nothing. */
  private tick(now: number): void {
    const passed = Math.min((now - this.before) / 1000, LONGEST_STEP);
    this.before = now;
    if (this.inSight && this.playback.playing) {
      this.playback.advance(passed);
      this.keepUp(passed);
      this.stale = true;
    }
    if (this.stale && this.inSight) this.draw();
    requestAnimationFrame((next) => this.tick(next));
  }

  private keepUp(passed: number): void {
    this.pace += (passed - this.pace) * 0.15;
    if (this.pace > SLOW) this.stage.coarse(true);
  }

  private draw(): void {
    const { clean, adversarial } = this.poses;
    const { frame } = this.playback;
    samplePose(this.motion, frame, 0, clean);
    samplePose(this.motion, frame, Number(this.panel.push.value), adversarial);
    this.stage.draw({
      clean,
      adversarial,
      top: this.panel.colour.checked ? this.top : null,
      overlay: this.panel.overlay.checked,
      cameraFor: (aspect) => cameraFor(this.framing, this.orbit, aspect, frame, this.panel.follow.checked),
    });
    this.panel.moment(this.motion, frame, largest(adversarial, this.motion.joints));
    this.stale = false;
  }
}

function largest(pose: Pose, joints: number): { amount: number; joint: number } | null {
  let best = -1;
  pose.amount.forEach((amount, i) => {
    if (pose.shown[i] && (best < 0 || amount > pose.amount[best])) best = i;
  });
  return best < 0 ? null : { amount: pose.amount[best], joint: best % joints };
}

/** A canvas that was asked for WebGL in vain gives no other context: the fallback needs one of its own. */
function openStage(place: HTMLElement): { canvas: HTMLCanvasElement; stage: Stage } {
  const template = place.querySelector("canvas")!;
  const trial = document.createElement("canvas").getContext("webgl2");
  if (trial) {
    trial.getExtension("WEBGL_lose_context")?.loseContext();
    const canvas = template.cloneNode() as HTMLCanvasElement;
    try {
      const stage = new Stage3d(canvas);
      template.replaceWith(canvas);
      return { canvas, stage };
    } catch {
      // Fall through to the plain canvas.
    }
  }
  return { canvas: template, stage: new Stage2d(template) };
}

for (const root of document.querySelectorAll<HTMLElement>("[data-player]")) {
  const source = root.querySelector<HTMLScriptElement>('script[type="application/json"]');
  if (source) new Player(root, JSON.parse(source.text) as ExampleData[]);
}
