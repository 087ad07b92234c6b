// From the JSON in the page to arrays of numbers. The layout is written by funnybone.report.payload.

export interface Packed {
  step: number;
  data: string;
}

export interface ExampleData {
  clip: string;
  victim: string;
  attack: string;
  truth: string;
  cleanPrediction: string;
  adversarialPrediction: string;
  success: boolean;
  displacement: number | null;
  unit: string;
  unitScale: number;
  fps: number;
  firstFrame: number;
  persons: number;
  frames: number;
  totalFrames: number;
  joints: string[];
  parents: number[];
  dimensions: number;
  facing: number | null;
  valid: string;
  offset: number[];
  positions: Packed;
  displacements: Packed;
}

/** One example's motion: (persons, frames, joints, 3), y up, in the unit of the data. */
export interface Motion {
  data: ExampleData;
  persons: number;
  frames: number;
  joints: number;
  clean: Float32Array;
  displacement: Float32Array;
  /** Length of the displacement of each joint, in the unit that is shown (millimetres). */
  amount: Float32Array;
  cleanSeen: Uint8Array;
  adversarialSeen: Uint8Array;
}

const MISSING = -32768;

function bytes(text: string): Uint8Array {
  const raw = atob(text);
  const out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

/** Little-endian int16 on whatever machine this is, widened to three dimensions; says which joints are there. */
function unpack(packed: Packed, dimensions: number, seen: Uint8Array): Float32Array {
  const view = new DataView(bytes(packed.data).buffer);
  const out = new Float32Array(seen.length * 3);
  for (let i = 0; i < seen.length; i++) {
    for (let c = 0; c < dimensions; c++) {
      const value = view.getInt16(2 * (i * dimensions + c), true);
      if (value === MISSING) seen[i] = 0;
      else out[3 * i + c] = value * packed.step;
    }
  }
  return out;
}

export function decode(data: ExampleData): Motion {
  const joints = data.joints.length;
  const count = data.persons * data.frames * joints;
  const valid = bytes(data.valid);
  const cleanSeen = new Uint8Array(count);
  for (let i = 0; i < count; i++) cleanSeen[i] = valid[Math.floor(i / joints)];
  const clean = unpack(data.positions, data.dimensions, cleanSeen);
  const adversarialSeen = cleanSeen.slice();
  const displacement = unpack(data.displacements, data.dimensions, adversarialSeen);
  const amount = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const [x, y, z] = displacement.subarray(3 * i, 3 * i + 3);
    amount[i] = Math.hypot(x, y, z) * data.unitScale;
  }
  return {
    data,
    persons: data.persons,
    frames: data.frames,
    joints,
    clean,
    displacement,
    amount,
    cleanSeen,
    adversarialSeen,
  };
}
