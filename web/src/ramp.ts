// Displacement as colour.

export type RGB = [number, number, number];

export class Ramp {
  private stops: RGB[];

  /** @param text colours as "#rrggbb, #rrggbb, ...", from no displacement to the largest */
  constructor(readonly text: string) {
    this.stops = text.split(",").map((part) => parseColour(part));
  }

  /** The colour of a share between 0 and 1, sRGB in 0..1. */
  at(share: number, out: RGB): RGB {
    const place = Math.min(Math.max(share, 0), 1) * (this.stops.length - 1);
    const low = Math.min(Math.floor(place), this.stops.length - 2);
    const [from, to] = [this.stops[low], this.stops[low + 1]];
    for (let c = 0; c < 3; c++) out[c] = from[c] + (to[c] - from[c]) * (place - low);
    return out;
  }
}

export function parseColour(text: string): RGB {
  const value = parseInt(text.trim().slice(1), 16);
  return [(value >> 16) / 255, ((value >> 8) & 255) / 255, (value & 255) / 255];
}

export function cssColour([r, g, b]: RGB): string {
  return `rgb(${Math.round(r * 255)} ${Math.round(g * 255)} ${Math.round(b * 255)})`;
}

/** The next 1, 2 or 5 times a power of ten. */
export function roundUp(value: number): number {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= value * 0.999) ?? 10 * power;
}

/** Top of the colour scale: the largest displacements of the clip, outliers apart. */
export function rampTop(amount: Float32Array, seen: Uint8Array): number {
  const values = amount.filter((_, i) => seen[i] === 1).sort();
  return values.length === 0 ? 1 : roundUp(values[Math.floor((values.length - 1) * 0.99)]);
}
