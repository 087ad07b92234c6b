// Builds the scripts of the report into the Python package.
//   node build.mjs            write them
//   node build.mjs --verify   fail if what is committed is not what these sources build
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const here = new URL(".", import.meta.url).pathname;
const target = `${here}../src/funnybone/report/static/`;
const verify = process.argv.includes("--verify");

/** One hash over everything that decides the result; tests/test_report.py computes it again without node. */
function fingerprint() {
  const sources = readdirSync(`${here}src`).map((name) => `src/${name}`);
  const hash = createHash("sha256");
  for (const name of ["build.mjs", "package-lock.json", ...sources].sort()) {
    hash.update(`${name}\n`).update(readFileSync(here + name)).update("\n");
  }
  return hash.digest("hex");
}

// The licence asks for its text in every copy, not only for the name that the library's own comment carries.
const licence = readFileSync(`${here}node_modules/three/LICENSE`, "utf8").trim();
const stamp = `/*! funnybone report script, built from web/ (sources sha256 ${fingerprint()}) */`;
const entries = {
  player: `${stamp}\n/*! Contains three.js:\n\n${licence}\n*/`,
  theme: stamp,
};

let stale = false;
for (const [name, banner] of Object.entries(entries)) {
  const result = await build({
    entryPoints: [`${here}src/${name}.ts`],
    bundle: true,
    minify: true,
    format: "iife",
    target: "es2022",
    charset: "ascii",
    legalComments: "inline",
    banner: { js: banner },
    write: false,
    logLevel: "warning",
  });
  const [{ text }] = result.outputFiles;
  const path = `${target}${name}.js`;
  if (verify) stale ||= readFileSync(path, "utf8") !== text;
  else writeFileSync(path, text);
  console.log(`${name}.js ${(text.length / 1024).toFixed(0)} KiB${verify ? " (compared)" : ""}`);
}
if (stale) {
  console.error("the committed scripts are not what these sources build: run npm run build");
  process.exit(1);
}
