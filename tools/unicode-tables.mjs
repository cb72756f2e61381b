#!/usr/bin/env node
// Writes src/tokenizer/tok_unicode_data.c: the classes, lower-case letters and first characters of canonical decompositions that
// the tokenizers need, of Unicode 15.1.
//
//   npm pack @unicode/unicode-15.1.0 && tar xzf unicode-unicode-15.1.0-*.tgz
//   node tools/unicode-tables.mjs package > src/tokenizer/tok_unicode_data.c
//
// The general categories come from that package. Case mappings and decompositions of a character never change once it is assigned,
// so they come from this program's own ICU (15.1 or later), for the characters that 15.1 has.
import { pathToFileURL } from 'node:url';
import { resolve } from 'node:path';

const root = process.argv[2];
if (!root || !(parseFloat(process.versions.unicode) >= 15.1)) {
  console.error('usage: unicode-tables.mjs FOLDER (of the package @unicode/unicode-15.1.0; needs a Node with Unicode 15.1 or later)');
  process.exit(2);
}
const points = async (path) => (await import(pathToFileURL(resolve(root, path, 'code-points.mjs')))).default;

const N = 0x110000;
const cls = new Uint8Array(N); // the order of enum tok_class
const categories = [['Letter', 1], ['Number', 2], ['Mark', 3], ['Punctuation', 4], ['Symbol', 5], ['Separator', 6], ['Control', 7], ['Format', 7],
  ['Private_Use', 7], ['Surrogate', 7]];
for (const [name, c] of categories) for (const cp of await points(`General_Category/${name}`)) cls[cp] = c;
for (const cp of await points('Binary_Property/White_Space')) cls[cp] = 8;

const assigned = (cp) => cls[cp] !== 0;
const runs = [];
for (let cp = 0; cp < N; cp++) if (cp === 0 || cls[cp] !== cls[cp - 1]) runs.push((cp * 16 + cls[cp]) >>> 0);

const lower = [], nfd = [];
for (let cp = 0; cp < N; cp++) {
  if (!assigned(cp) || (cp >= 0xD800 && cp < 0xE000)) continue;
  const s = String.fromCodePoint(cp);
  const l = s.toLowerCase().codePointAt(0);
  if (l !== cp && assigned(l)) {
    const last = lower[lower.length - 1]; // runs of the same distance and step
    const step = last && cp - last.last;
    if (last && last.delta === l - cp && (last.first === last.last ? step <= 2 : step === last.step)) { last.last = cp; last.step = step; }
    else lower.push({ first: cp, last: cp, step: 1, delta: l - cp });
  }
  if (cp >= 0xAC00 && cp <= 0xD7A3) continue; // Hangul syllables by arithmetic
  const d = s.normalize('NFD').codePointAt(0);
  if (d !== cp) {
    const last = nfd[nfd.length - 1];
    if (last && last.last === cp - 1 && last.to === d) last.last = cp;
    else nfd.push({ first: cp, last: cp, to: d });
  }
}

const hex = (n) => '0x' + n.toString(16).toUpperCase();
const lines = (items) => {
  const out = [];
  let line = '   ';
  for (const item of items) {
    if (line.length + item.length + 2 > 136) { out.push(line); line = '   '; }
    line += ' ' + item + ',';
  }
  out.push(line);
  return out.join('\n');
};
console.log(`// Written by tools/unicode-tables.mjs from Unicode 15.1's data; do not edit. Owns the tables that tok_unicode.c reads.
#include "tokenizer/tok_unicode.h"

// A run begins at (value >> 4) and has class (value & 15).
const uint32_t tok_unicode_runs[] = {
${lines(runs.map(hex))}
};
const size_t tok_unicode_run_count = sizeof tok_unicode_runs / sizeof *tok_unicode_runs;

// first, last, step, distance to the lower-case letter.
const tok_lower_run tok_unicode_lower[] = {
${lines(lower.map((r) => `{${hex(r.first)}, ${hex(r.last)}, ${r.step}, ${r.delta}}`))}
};
const size_t tok_unicode_lower_count = sizeof tok_unicode_lower / sizeof *tok_unicode_lower;

// first, last, first character of the decomposition.
const tok_nfd_run tok_unicode_nfd[] = {
${lines(nfd.map((r) => `{${hex(r.first)}, ${hex(r.last)}, ${hex(r.to)}}`))}
};
const size_t tok_unicode_nfd_count = sizeof tok_unicode_nfd / sizeof *tok_unicode_nfd;`);
