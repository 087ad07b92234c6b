// The clock of the player: real time by the clip's own frame rate.

/** A loop without a pause reads as a jump in the motion. */
const REST_AT_END = 0.6;

export class Playback {
  frame = 0;
  playing = false;
  speed = 1;
  private rest = 0;

  constructor(
    private frames: number,
    private fps: number,
  ) {}

  get last(): number {
    return this.frames - 1;
  }

  /** Seconds from the first frame that is shown. */
  get seconds(): number {
    return this.frame / this.fps;
  }

  load(frames: number, fps: number): void {
    this.frames = frames;
    this.fps = fps;
    this.seek(0);
  }

  seek(frame: number): void {
    this.frame = Math.min(Math.max(frame, 0), this.last);
    this.rest = 0;
  }

  advance(seconds: number): void {
    if (!this.playing || this.last === 0) return;
    if (this.frame >= this.last) {
      this.rest += seconds;
      if (this.rest >= REST_AT_END) this.seek(0);
      return;
    }
    this.frame = Math.min(this.frame + seconds * this.fps * this.speed, this.last);
  }
}
