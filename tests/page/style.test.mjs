// Colours: WCAG AA of every text on every ground it stands on, in light and dark.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

const STATIC = new URL("../../src/maskwright/serve/static/", import.meta.url);

/** @param {string} colour */
function luminance(colour) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** @param {string} a @param {string} b */
function contrast(a, b) {
  const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
  return (light + 0.05) / (dark + 0.05);
}

test("the formula is the standard's", () => {
  assert.ok(Math.abs(contrast("#000000", "#ffffff") - 21) < 1e-9);
  assert.ok(Math.abs(contrast("#777777", "#ffffff") - 4.48) < 0.01);
});

test("texts are read and signs are seen, in light and dark", async () => {
  const css = await readFile(new URL("style.css", STATIC), "utf8");
  const themes = [...css.matchAll(/:root[^{]*\{([^}]*)\}/g)].map(([, body]) => Object.fromEntries([...body.matchAll(/--([a-z-]+): (#[0-9a-f]{6})/g)].map(([, name, value]) => [name, value])));
  assert.equal(themes.length, 3);
  assert.deepEqual(themes[1], themes[2]);
  for (const theme of themes) {
    for (const text of ["ink", "quiet", "good", "warn", "bad", "accent"]) {
      for (const ground of ["panel", "back", "hover", "chosen"]) {
        if (text === "accent" && ground !== "panel") continue;
        const found = contrast(theme[text], theme[ground]);
        assert.ok(found >= 4.5, `${text} ${theme[text]} on ${ground} ${theme[ground]}: ${found.toFixed(2)}`);
      }
    }
    assert.ok(contrast(theme["on-accent"], theme.accent) >= 4.5);
    for (const sign of ["focus", "edge", "accent"]) assert.ok(contrast(theme[sign], theme.panel) >= 3, `${sign}: ${contrast(theme[sign], theme.panel).toFixed(2)}`);
    assert.ok(contrast(theme.ink, theme.stage) >= 4.5);
  }
});

test("nothing in the page needs what the content security policy forbids", async () => {
  const html = await readFile(new URL("index.html", STATIC), "utf8");
  assert.doesNotMatch(html, /<script(?![^>]*\bsrc=)/);
  assert.doesNotMatch(html, /<style|\sstyle=|\son[a-z]+=|https?:/);
  const ids = [...html.matchAll(/\bid="([^"]+)"/g)].map(([, id]) => id);
  assert.equal(new Set(ids).size, ids.length);
});
