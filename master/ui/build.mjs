// Bundles the page into dist/: one script, one style sheet, no inline code, nothing from another host.
import { build } from "esbuild";
import sveltePlugin from "esbuild-svelte";
import { cp, mkdir, rm } from "node:fs/promises";

await rm("dist", { recursive: true, force: true });
await mkdir("dist", { recursive: true });
await build({
  entryPoints: ["src/main.ts"],
  outdir: "dist",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  conditions: ["svelte", "browser", "production"],
  mainFields: ["svelte", "browser", "module", "main"],
  plugins: [sveltePlugin({ compilerOptions: { css: "external", runes: true, dev: false } })],
  logLevel: "warning",
});
await cp("src/index.html", "dist/index.html");
await cp("src/icon.svg", "dist/icon.svg");
