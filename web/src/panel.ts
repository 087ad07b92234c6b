// The controls and captions around the view. Their elements are in the page (templates/motion.html.j2); this finds them.

import type { ExampleData, Motion } from "./decode";
import { cssColour, type Ramp, type RGB } from "./ramp";
import type { Paint } from "./stage";

/** A class of its own: the fields below are filled before a constructor of theirs would know the root. */
class Roles {
  constructor(readonly root: HTMLElement) {}

  find<T extends HTMLElement>(role: string): T {
    const element = this.root.querySelector<T>(`[data-role="${role}"]`);
    if (!element) throw new Error(`the page has no element for ${role}`);
    return element;
  }
}

export class Panel extends Roles {
  readonly example = this.find<HTMLSelectElement>("example");
  readonly play = this.find<HTMLButtonElement>("play");
  readonly back = this.find<HTMLButtonElement>("back");
  readonly forth = this.find<HTMLButtonElement>("forth");
  readonly scrub = this.find<HTMLInputElement>("scrub");
  readonly speed = this.find<HTMLSelectElement>("speed");
  readonly push = this.find<HTMLSelectElement>("push");
  readonly colour = this.find<HTMLInputElement>("colour");
  readonly follow = this.find<HTMLInputElement>("follow");
  readonly reset = this.find<HTMLButtonElement>("reset");
  readonly sideBySide = this.find<HTMLInputElement>("side");
  readonly overlay = this.find<HTMLInputElement>("overlay");
  readonly stage = this.find<HTMLElement>("stage");

  listExamples(examples: ExampleData[]): void {
    examples.forEach((example, index) => {
      const verdict = example.success ? `${example.truth} → ${example.adversarialPrediction}` : `${example.truth}, attack failed`;
      const text = `${example.clip}: ${verdict} (${example.attack} on ${example.victim})`;
      this.example.append(new Option(text, String(index)));
    });
  }

  describe(motion: Motion): void {
    const { data } = motion;
    this.text("clean-prediction", data.cleanPrediction);
    this.text("adversarial-prediction", data.adversarialPrediction);
    this.text("truth", data.truth);
    this.text("attack", data.attack);
    this.text("victim", data.victim);
    this.text("verdict", data.success ? "Attack succeeded" : "Attack did not succeed");
    this.find("verdict").dataset.success = String(data.success);
    const mean = data.displacement === null ? "–" : significant(data.displacement * data.unitScale);
    this.text("mean", `${mean} ${data.unit}`);
    this.find("clean-prediction").dataset.right = String(data.cleanPrediction === data.truth);
    this.find("adversarial-prediction").dataset.right = String(data.adversarialPrediction === data.truth);
    this.scrub.max = String(motion.frames - 1);
    this.scrub.step = "any";
  }

  /** What the view shows now, for those who do not see it and beside it for those who do. */
  moment(motion: Motion, frame: number, largest: { amount: number; joint: number } | null): void {
    const { data } = motion;
    const shown = Math.round(frame);
    const number = data.firstFrame + shown + 1;
    this.text("frame", `${number} / ${data.totalFrames}`);
    this.text("seconds", `${(frame / data.fps).toFixed(2)} s`);
    this.text("largest", largest ? `${significant(largest.amount)} ${data.unit}` : "–");
    this.text("largest-joint", largest ? data.joints[largest.joint] : "");
    if (document.activeElement !== this.scrub || Number(this.scrub.value) !== frame) this.scrub.value = String(frame);
    this.scrub.setAttribute("aria-valuetext", `frame ${number} of ${data.totalFrames}`);
    this.scrub.style.setProperty("--done", `${(100 * frame) / Math.max(motion.frames - 1, 1)}%`);
    this.root.dataset.frame = frame.toFixed(2);
  }

  playing(playing: boolean): void {
    this.root.dataset.state = playing ? "playing" : "paused";
    this.play.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.play.title = playing ? "Pause (space)" : "Play (space)";
  }

  legend(paint: Paint, top: number | null, unit: string): void {
    this.find("clean-swatch").style.background = cssColour(paint.clean);
    const gradient = stops(paint.ramp);
    this.find("adversarial-swatch").style.background = top === null ? cssColour(paint.adversarial) : gradient;
    this.find("legend").hidden = top === null;
    if (top === null) return;
    this.find("legend-bar").style.background = gradient;
    this.text("legend-middle", significant(top / 2));
    this.text("legend-top", `${significant(top)} ${unit}`);
  }

  exaggerated(factor: number): void {
    this.find("exaggerated").hidden = factor === 1;
    this.text("exaggerated", `Displacement drawn ×${factor}, not to scale`);
  }

  private text(role: string, value: string): void {
    const element = this.find(role);
    if (element.textContent !== value) element.textContent = value;
  }
}

function stops(ramp: Ramp): string {
  const rgb: RGB = [0, 0, 0];
  const colours = Array.from({ length: 9 }, (_, i) => cssColour(ramp.at(i / 8, rgb)));
  return `linear-gradient(to right, ${colours.join(", ")})`;
}

/** Three figures at most, and none beyond what is there: 0.412, 3.1, 12, 250. */
function significant(value: number): string {
  if (value === 0) return "0";
  if (value >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(value >= 10 ? 3 : 2)));
}
