// Turning the view: mouse, touch, wheel and keyboard on one element.

const TURN = Math.PI / 24;
const STEEPEST = 1.45;

export class Orbit {
  yaw = 0;
  pitch = 0;
  zoom = 1;
  private home = { yaw: 0, pitch: 0 };
  private held = new Map<number, { x: number; y: number }>();

  constructor(
    private readonly element: HTMLElement,
    private readonly changed: () => void,
  ) {
    element.addEventListener("pointerdown", (event) => this.hold(event));
    element.addEventListener("pointermove", (event) => this.drag(event));
    for (const type of ["pointerup", "pointercancel"] as const) {
      element.addEventListener(type, (event) => this.held.delete(event.pointerId));
    }
    // Only a view that has the focus takes the wheel: a reader who scrolls past must not get stuck in it.
    element.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    element.addEventListener("keydown", (event) => this.key(event));
  }

  setHome(yaw: number, pitch: number): void {
    this.home = { yaw, pitch };
    this.reset();
  }

  reset(): void {
    Object.assign(this, this.home, { zoom: 1 });
    this.changed();
  }

  turn(yaw: number, pitch: number): void {
    this.yaw += yaw;
    this.pitch = Math.min(Math.max(this.pitch + pitch, -STEEPEST), STEEPEST);
    this.changed();
  }

  scale(factor: number): void {
    this.zoom = Math.min(Math.max(this.zoom * factor, 0.4), 6);
    this.changed();
  }

  private hold(event: PointerEvent): void {
    this.element.setPointerCapture(event.pointerId);
    this.held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  private drag(event: PointerEvent): void {
    const last = this.held.get(event.pointerId);
    if (!last) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.held].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const before = Math.hypot(last.x - other.x, last.y - other.y);
      this.scale(Math.hypot(now.x - other.x, now.y - other.y) / Math.max(before, 1));
    } else {
      this.turn((last.x - now.x) * 0.01, (now.y - last.y) * 0.01);
    }
    this.held.set(event.pointerId, now);
  }

  private wheel(event: WheelEvent): void {
    if (document.activeElement !== this.element && !event.ctrlKey) return;
    event.preventDefault();
    this.scale(Math.exp(-event.deltaY * 0.0015));
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves: Record<string, () => void> = {
      ArrowLeft: () => this.turn(-TURN, 0),
      ArrowRight: () => this.turn(TURN, 0),
      ArrowUp: () => this.turn(0, TURN),
      ArrowDown: () => this.turn(0, -TURN),
      "+": () => this.scale(1.15),
      "=": () => this.scale(1.15),
      "-": () => this.scale(1 / 1.15),
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }
}
